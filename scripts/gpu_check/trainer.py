"""Runs qlora-train as a user does and reads what it wrote."""

import json
import os
import re
import shutil

from process import ProcessError, run


def run_config(model, data, output, device, dtype, **training):
    settings = {
        "output_dir": str(output),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "log_rows": True,
        "seed": 7,
    }
    return {
        "model": {"path": str(model), "device": device},
        "quantization": {"bnb_4bit_compute_dtype": dtype},
        "peft": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
        "data": {"train": str(data), "template": "none", "max_length": 4096},
        "training": settings | training,
    }


def read_metrics(output):
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


def train(programs, config, limit, *flags, extra=()):
    """Lines of the log. `extra`: further --set arguments."""
    output = config["training"]["output_dir"]
    file = f"{output}.json"
    if "--resume" not in flags:
        shutil.rmtree(output, ignore_errors=True)
    with open(file, "w", encoding="utf-8") as out:
        json.dump(config, out, indent=1)
    command = [programs / "qlora-train", "--config", file, *flags]
    for setting in extra:
        command += ["--set", setting]
    finished = run(command, os.environ, limit=limit)
    return [line for _, line in finished.log]


def planned_bytes(log):
    """What the program planned to use at most; None when it did not say."""
    for line in log:
        if match := re.search(r"planned peak [\w ]*?([\d.]+) GB", line):
            return float(match[1]) * 1e9
    return None


def largest_gap(losses, others):
    """The largest relative difference of two courses of one length."""
    if len(losses) != len(others) or not losses:
        raise ProcessError(f"{len(losses)} and {len(others)} steps were logged")
    return max(abs(a - b) / max(abs(b), 1e-30) for a, b in zip(losses, others))
