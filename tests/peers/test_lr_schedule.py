"""Learning-rate schedules: every factor of every step equals transformers' get_scheduler.

QLORA_BIN names the folder with the program lr_schedule.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments, get_scheduler

TYPES = ["linear", "cosine", "constant", "constant_with_warmup"]
TOTALS = [1, 2, 3, 7, 33, 34, 100, 257, 1000, 2513]
WARMUPS = [0, 0.03, 0.1, 0.5, 0.999, 1, 2, 10, 5000]


def factors_of(requests):
    folder = os.environ.get("QLORA_BIN")
    assert folder, "QLORA_BIN must name the folder with the built programs"
    program = Path(folder) / "lr_schedule"
    assert program.is_file(), f"{program} is missing"
    done = subprocess.run([program], input=json.dumps(requests), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def transformers_factors(name, warmup_steps, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total)
    factors = []
    for _ in range(total + 1):
        factors.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize("name", TYPES)
def test_every_step_has_the_factor_of_transformers(name, tmp_path):
    requests = [{"type": name, "warmup_steps": warmup, "total_steps": total} for warmup in WARMUPS for total in TOTALS]
    answers = factors_of(requests)
    assert len(answers) == len(requests)
    for request, answer in zip(requests, answers):
        arguments = TrainingArguments(output_dir=str(tmp_path), warmup_steps=request["warmup_steps"], use_cpu=True)
        warmup_steps = arguments.get_warmup_steps(request["total_steps"])
        if name != "constant":
            assert answer["warmup_steps"] == warmup_steps, request
        expected = transformers_factors(name, warmup_steps, request["total_steps"])
        assert answer["factors"] == pytest.approx(expected, rel=0, abs=1e-12), request
