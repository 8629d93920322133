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

RATE = 2e-4
# Name and keywords of every schedule; TOTALS and WARMUPS are tried with each.
SCHEDULES = [
    ("linear", {}), ("constant", {}), ("constant_with_warmup", {}),
    ("cosine", {}), ("cosine", {"num_cycles": 1.5}),
    ("cosine_with_restarts", {}), ("cosine_with_restarts", {"num_cycles": 3}),
    ("cosine_with_min_lr", {"min_lr": 1e-5}), ("cosine_with_min_lr", {"min_lr_rate": 0.1, "num_cycles": 1.5}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", {"min_lr": 1e-5, "warmup_lr_rate": 0.25}),
    ("polynomial", {}), ("polynomial", {"lr_end": 1e-5, "power": 2.5}),
    ("inverse_sqrt", {}), ("inverse_sqrt", {"timescale": 50}),
    ("warmup_stable_decay", {"num_decay_steps": 3}),
    ("warmup_stable_decay", {"num_decay_steps": 20, "num_stable_steps": 5, "warmup_type": "cosine",
                             "decay_type": "1-sqrt", "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", {"num_decay_steps": 40, "warmup_type": "1-sqrt", "decay_type": "linear"}),
]
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


def transformers_factors(name, kwargs, warmup_steps, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total,
                              scheduler_specific_kwargs=kwargs)
    factors = []
    factor_of_step = scheduler.lr_lambdas[0]
    for step in range(total + 1):
        try:
            factors.append(factor_of_step(step))
        except ZeroDivisionError:  # polynomial with a warm-up as long as the run, past the last step
            assert step == total
            factors.append(None)
    return factors


@pytest.mark.parametrize(("name", "kwargs"), SCHEDULES)
def test_every_step_has_the_factor_of_transformers(name, kwargs, tmp_path):
    requests = [{"type": name, "warmup_steps": warmup, "total_steps": total, "learning_rate": RATE, "kwargs": kwargs}
                for warmup in WARMUPS for total in TOTALS]
    answers = factors_of(requests)
    assert len(answers) == len(requests)
    arguments = {warmup: TrainingArguments(output_dir=str(tmp_path), warmup_steps=warmup, use_cpu=True)
                 for warmup in WARMUPS}
    for request, answer in zip(requests, answers):
        warmup_steps = arguments[request["warmup_steps"]].get_warmup_steps(request["total_steps"])
        if name != "constant":
            assert answer["warmup_steps"] == warmup_steps, request
        expected = transformers_factors(name, kwargs, warmup_steps, request["total_steps"])
        assert len(answer["factors"]) == len(expected)
        for step, (ours, theirs) in enumerate(zip(answer["factors"], expected)):
            assert theirs is None or abs(ours - theirs) <= 1e-12, (request, step, ours, theirs)


def test_what_a_schedule_does_not_take_or_lacks_is_refused():
    program = Path(os.environ["QLORA_BIN"]) / "lr_schedule"
    for name, kwargs, message in [
        ("linear", {"min_lr": 1e-5}, "kwargs.min_lr: is not a keyword of the schedule \"linear\", which takes none"),
        ("polynomial", {"timescale": 3}, "which takes lr_end, power"),
        ("polynomial", {"lr_end": 1}, "must be below training.learning_rate"),
        ("cosine_with_min_lr", {}, "needs one of min_lr and min_lr_rate"),
        ("cosine_with_min_lr", {"min_lr": 1e-5, "min_lr_rate": 0.1}, "not both"),
        ("cosine_with_min_lr", {"min_lr": 1}, "must not be above training.learning_rate"),
        ("warmup_stable_decay", {}, "needs num_decay_steps"),
        ("cosine", {"num_cycle": 1}, "num_cycle: unknown key; did you mean \"num_cycles\"?"),
        ("reduce_lr_on_plateau", {}, "a rate that follows the losses is not there"),
        ("greedy", {}, "a rate that follows the losses is not there"),
    ]:
        request = [{"type": name, "warmup_steps": 0, "total_steps": 3, "learning_rate": RATE, "kwargs": kwargs}]
        done = subprocess.run([program], input=json.dumps(request), capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and message in done.stderr, (name, kwargs, done.stderr)
