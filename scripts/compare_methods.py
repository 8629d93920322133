#!/usr/bin/env python3
"""Trains each method on the quick start's data for an epoch and prints the README's table: what it trains, memory, speed and
the held-out loss. Needs the built programs and the model that scripts/quickstart.sh fetches.

    QLORA_BIN=build/release/bin scripts/compare_methods.py            the table, about five minutes a method on two cores
    ... --methods prompt,prefix --rates 1e-3,5e-3 --rows 400          learning rates on a part of the rows

Each run is the shipped configuration with its peft section exchanged and the method's own learning rate. Memory is the peak
of the whole program; tokens/s is the median of the run's steps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "qlora_smollm2_135m.json"
TEXT = "Answer the question about the meaning of a word in one short line."
METHODS = {
    "lora": {"r": 16, "lora_alpha": 32},
    "lora-all": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
    "lora+": {"r": 16, "lora_alpha": 32},
    "dora": {"r": 16, "lora_alpha": 32, "use_dora": True},
    "ia3": {"peft_type": "IA3"},
    "prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 20},
    "p-tuning": {"peft_type": "P_TUNING", "num_virtual_tokens": 20},
    "prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 20},
    "seq_bn": {"peft_type": "BOTTLENECK", "config": "seq_bn"},
    "double_seq_bn": {"peft_type": "BOTTLENECK", "config": "double_seq_bn"},
    "par_bn": {"peft_type": "BOTTLENECK", "config": "par_bn", "reduction_factor": 16},
    "prefix-text": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 20, "prefix_init_text": TEXT},
}
TRAINING = {"lora+": {"loraplus_lr_ratio": 16}}


# Started as a process of its own for each run, since it reports the largest peak of all that it waited for.
PEAK = """import json, resource, subprocess, sys
done = subprocess.run(json.loads(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(done.returncode)"""


def peak_memory(command):
    """Bytes that the program had at most."""
    done = subprocess.run([sys.executable, "-c", PEAK, json.dumps(command)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return int(done.stdout.split()[-1])


def measure(name, bin_dir, folder, rate, rows):
    config = json.loads(CONFIG.read_text())
    config["model"]["path"] = str((CONFIG.parent / config["model"]["path"]).resolve())
    data = config["data"]
    for key in ("train", "eval"):
        data[key] = str((CONFIG.parent / data[key]).resolve())
    if rows:
        lines = Path(data["train"]).read_text().splitlines(keepends=True)[:rows]
        data["train"] = str(folder / "train.jsonl")
        Path(data["train"]).write_text("".join(lines))
    training = config["training"]
    training.pop("learning_rate", None)
    training |= {"output_dir": str(folder / "run"), "num_train_epochs": 1, "logging_steps": 1, "sample_rows": 0,
                 "eval_on_start": False, **TRAINING.get(name, {})}
    if rate:
        training["learning_rate"] = rate
    config["peft"] = METHODS[name]
    file = folder / "run.json"
    file.write_text(json.dumps(config))
    memory = peak_memory([str(bin_dir / "qlora-train"), "--config", str(file), "--quiet"])
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    saved = json.loads((folder / "run" / "run_config.json").read_text())
    return {
        "rate": saved["training"]["learning_rate"],
        "memory": memory,
        "speed": statistics.median(line["tokens_per_second"] for line in lines if "loss" in line),
        "loss": [line["eval_loss"] for line in lines if "eval_loss" in line][-1],
        "trained": trained_values(next((folder / "run" / "adapter").glob("adapter*.safetensors"))),
    }


def trained_values(file):
    """Values in the adapter's file."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for dimension in tensor["shape"]:
                size *= dimension
            total += size
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rates", default="", help="learning rates to try instead of the method's own")
    parser.add_argument("--rows", type=int, default=0, help="training rows; all by default")
    arguments = parser.parse_args()
    bin_dir = Path(os.environ.get("QLORA_BIN", ROOT / "build" / "release" / "bin")).resolve()
    rates = [float(rate) for rate in arguments.rates.split(",") if rate] or [None]
    print("| method | saved values | peak memory | tokens/s | learning rate | held-out loss |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in arguments.methods.split(","):
        for rate in rates:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(name, bin_dir, Path(folder), rate, arguments.rows)
            print(f"| {name} | {found['trained']:,} | {found['memory'] / 1e9:.2f} GB | {found['speed']:.0f} |"
                  f" {found['rate']:g} | {found['loss']:.4f} |", flush=True)


if __name__ == "__main__":
    main()
