#!/usr/bin/env python3
"""Makes tests/peers/bottleneck_golden: what AdapterHub's `adapters` makes of tiny models in twenty steps.

  QLORA_BIN=build/release/bin .venv/bin/python tests/peers/bottleneck_golden.py --environment /tmp/adapters_env
The environment is made if it is not there: requirements-adapters.txt beside the packages of the interpreter that runs
this. The rows of each step are those that qlora-train takes, and the models are those of make_tiny_model.py.
"""

import argparse
import hashlib
import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GOLDEN = HERE / "bottleneck_golden"
MODELS = {
    "llama": {"model_type": "llama", "bias": True},
    "gpt2": {"model_type": "gpt2"},
    "qwen2": {"model_type": "qwen2"},
    "gemma2": {"model_type": "gemma2"},
    "phi": {"model_type": "phi"},
}
SETTINGS = {"seq_bn": {"reduction_factor": 8}, "double_seq_bn": {"reduction_factor": 8}, "par_bn": {"reduction_factor": 4}}
# seq_bn of gemma2 reads the last layer's norm in every layer there, and par_bn of phi nothing: both are refused here.
LEFT_OUT = ("gemma2-seq_bn", "phi-par_bn")
CASES = [f"{model}-{kind}" for model in MODELS for kind in SETTINGS if f"{model}-{kind}" not in LEFT_OUT]
TRAINING = {
    "max_steps": 20,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 3,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "logging_steps": 1,
    "log_rows": True,
}


def parts(case):
    return case.split("-")


def options(case):
    """Of make_tiny_model.py; spelled so that transformers 4 reads it too."""
    return {**MODELS[parts(case)[0]], "max_positions": 512, "old_config": True}


def make_environment(folder):
    """The interpreter of an environment with `adapters`, beside the packages of this one."""
    python = folder / "bin" / "python"
    done = folder / "complete"
    if not done.is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        inner = next(folder.glob("lib/python3*/site-packages"))
        (inner / "beside.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", "-r",
                        HERE / "requirements-adapters.txt"], check=True)
        done.touch()
    return python


def rows_hash(rows):
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def rows_of(model_folder, data):
    from peft_loop import chatml_rows

    return [{"ids": row.ids, "supervised": [int(s) for s in row.supervised]} for row in chatml_rows(model_folder, data)]


def sections(model_folder, data, output="out", **model):
    return {
        "model": {"path": str(model_folder), "device": "cpu", **model},
        "quantization": {"load_in_4bit": False},
        "data": {"train": str(data), "max_length": 512, "template": "chatml"},
        "training": {**TRAINING, "output_dir": output},
    }


def case_request(case, model_folder, data, steps):
    rows = rows_of(model_folder, data)
    return {"model": str(model_folder), "kind": parts(case)[1], "settings": SETTINGS[parts(case)[1]],
            "training": TRAINING, "rows": rows, "rows_hash": rows_hash(rows), "steps": steps}


def run_golden(python, cases, folder_of, data, bin_dir, scratch, output):
    """Runs the package on `cases`; what it computed goes to `output`."""
    from peft_loop import qlora_train, training_lines

    request = {}
    for case in cases:
        run = sections(folder_of(case), data)
        run["peft"] = {"target_modules": "all-linear"}
        inner = scratch / case
        inner.mkdir()
        steps = [line["rows"] for line in training_lines(qlora_train(bin_dir, inner, run, "--quiet"))]
        request[case] = case_request(case, folder_of(case), data, steps)
    file = scratch / "request.json"
    file.write_text(json.dumps(request))
    subprocess.run([python, HERE / "run_adapters.py", "golden", file, output], check=True, timeout=600)


def main():
    sys.path[:0] = [str(ROOT / "scripts"), str(HERE)]
    from make_tiny_model import TinyModel, make_tiny_model
    from test_training_parity import short_rows

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, required=True)
    python = make_environment(parser.parse_args().environment)
    with tempfile.TemporaryDirectory() as folder:
        scratch, made = Path(folder), {}

        def folder_of(case):
            name = parts(case)[0]
            if name not in made:
                made[name] = make_tiny_model(scratch / f"model-{name}", TinyModel(**options(case)))
            return made[name]

        output = scratch / "golden"
        output.mkdir()
        run_golden(python, CASES, folder_of, short_rows(ROOT, scratch, 60), Path(os.environ["QLORA_BIN"]).resolve(),
                   scratch, output)
        shutil.rmtree(output / "trained")
        shutil.rmtree(GOLDEN, ignore_errors=True)
        shutil.copytree(output, GOLDEN)


if __name__ == "__main__":
    main()
