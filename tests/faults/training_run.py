"""A small training run that faults are injected into, and what is compared afterwards."""

import collections
import dataclasses
import filecmp
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

FULL = os.environ.get("QLORA_FULL") == "1"
STEPS = 20  # of a run unless a test says otherwise
TIMEOUT = 120  # seconds; a run takes about half of one
TIMINGS = ("tokens_per_second", "step_time", "memory_bytes")


def sample(items, count):
    """Evenly spread over the list; all of it with QLORA_FULL=1."""
    items = list(items)
    if FULL or len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


class Tally:
    """Faults per class: injected, survived (the promise held), lost (files), silent (wrong, unreported)."""

    def __init__(self):
        self.classes = collections.defaultdict(collections.Counter)
        self.notes = []

    def add(self, name, outcome="survived", count=1):
        self.classes[name]["injected"] += count
        self.classes[name][outcome] += count

    def note(self, text):
        self.notes.append(text)

    def to_json(self):
        return {"classes": {name: dict(counts) for name, counts in self.classes.items()}, "notes": self.notes}

    def merge(self, values):
        for name, counts in values["classes"].items():
            self.classes[name].update(counts)
        self.notes += values["notes"]

    def lines(self):
        keys = ("injected", "survived", "lost", "silent")
        total = collections.Counter()
        for name, counts in self.classes.items():
            total.update(counts)
            yield f"{name}: " + " / ".join(f"{counts[key]} {key}" for key in keys)
        yield "all classes: " + " / ".join(f"{total[key]} {key}" for key in keys)
        yield from self.notes


@dataclasses.dataclass
class Ended:
    code: int
    text: str  # stderr


class Experiment:
    """Runs `qlora-train` in one folder. Runs that are compared use one output folder in turn, because
    checkpoints hold its path; `set_aside` keeps a finished one."""

    def __init__(self, program, folder, model):
        self.program, self.folder, self.model = Path(program), Path(folder), Path(model)
        self.out = self.folder / "run"
        self.environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def config(self, **training):
        """Writes run.json; `training` over the defaults of these tests."""
        values = {
            "output_dir": "run",
            "max_steps": STEPS,  # 9 steps an epoch: two epochs end inside
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "eval_steps": 3,
            "save_steps": 1,
            "save_total_limit": None,
            "sample_rows": 1,
            "log_rows": True,
        } | training
        config = {
            "model": {"path": str(self.model), "device": "cpu"},
            "peft": {"r": 2, "lora_alpha": 4, "lora_dropout": 0.1, "target_modules": "all-linear"},
            "data": {"train": "train.jsonl", "eval": "eval.jsonl", "max_length": 128, "template": "chatml"},
            "training": values,
        }
        (self.folder / "run.json").write_text(json.dumps(config, indent=1), encoding="utf-8")

    def command(self, *flags, **settings):
        command = [str(self.program), "--config", str(self.folder / "run.json"), *flags]
        for name, value in settings.items():
            command += ["--set", f"{name.replace('__', '.')}={json.dumps(value)}"]
        return command

    def start(self, *flags, wrap=(), **settings):
        return subprocess.Popen(
            [*wrap, *self.command(*flags, **settings)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=self.environment,
        )

    def train(self, *flags, wrap=(), **settings):
        process = self.start(*flags, wrap=wrap, **settings)
        try:
            text = process.communicate(timeout=TIMEOUT)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return Ended(process.returncode, text)

    def clear(self):
        shutil.rmtree(self.out, ignore_errors=True)

    def set_aside(self, name="reference"):
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        self.out.rename(target)
        return target

    def reference(self, **training):
        """A run that nothing disturbs."""
        self.config(**training)
        self.clear()
        ended = self.train()
        assert ended.code == 0, ended.text
        return self.set_aside()

    def put_back(self, reference):
        self.clear()
        shutil.copytree(reference, self.out)


def strace(*injections, log="/dev/null"):
    """The command prefix that injects faults into a run's system calls."""
    names = {injection.split(":")[0] for injection in injections}
    expressions = [part for injection in injections for part in ("-e", f"inject={injection}")]
    return ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(sorted(names))}", *expressions]


def steps_of(run):
    folder = Path(run) / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(
        int(path.name[len("step-") :]) for path in folder.iterdir() if path.name.startswith("step-")
    )


def folder_difference(ours, theirs):
    """Why two folders of files are not equal to the byte; empty if they are."""
    names = sorted(path.name for path in Path(ours).iterdir())
    expected = sorted(path.name for path in Path(theirs).iterdir())
    if names != expected:
        return f"{ours} holds {names}, {theirs} holds {expected}"
    different = [
        name for name in names if not filecmp.cmp(Path(ours) / name, Path(theirs) / name, shallow=False)
    ]
    return f"{ours}: {', '.join(different)} differ from {theirs}" if different else ""


def metrics(run):
    """The lines of metrics.jsonl without what the clock decides. Strict JSON: NaN is no number."""

    def refuse(literal):
        raise ValueError(f"{literal} in {run}/metrics.jsonl")

    lines = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in rows]


def leftovers(run):
    run = Path(run)
    return [path for path in run.rglob("*") if path.name.startswith((".tmp-", ".old-", ".lock"))]


def run_difference(run, reference):
    """Why a finished run is not the undisturbed one: result, common checkpoints, metrics, leftovers."""
    faults = []
    if difference := folder_difference(Path(run) / "adapter", Path(reference) / "adapter"):
        faults.append(difference)
    common = set(steps_of(run)) & set(steps_of(reference))
    if max(steps_of(reference)) not in common:
        faults.append("the last checkpoint is missing")
    for step in sorted(common):
        name = f"checkpoints/step-{step}"
        if difference := folder_difference(Path(run) / name, Path(reference) / name):
            faults.append(difference)
    ours, expected = metrics(run), metrics(reference)
    if ours != expected:
        place = next(
            (i for i, (a, b) in enumerate(zip(ours, expected, strict=False)) if a != b),
            min(len(ours), len(expected)),
        )
        faults.append(
            f"metrics.jsonl differs from line {place + 1} of {len(ours)} ({len(expected)} expected)"
        )
    faults += [f"left behind: {path}" for path in leftovers(run)]
    return "; ".join(faults)


def resume_and_compare(experiment, reference, tally, name, **settings):
    """Resumes the run to its end, which must be that of the undisturbed one, and counts it under `name`."""
    ended = experiment.train("--resume", **settings)
    assert ended.code == 0, ended.text
    difference = run_difference(experiment.out, reference)
    tally.add(name, "silent" if difference else "survived")
    assert not difference, difference
    return ended


def stop_when(experiment, pattern, number, *flags):
    """Sends the signal when stderr shows the pattern; exit code, stderr, seconds until the end."""
    process = experiment.start(*flags)
    text = ""
    for line in process.stderr:
        text += line
        if re.search(pattern, line):
            break
    process.send_signal(number)
    sent = time.monotonic()
    text += process.communicate(timeout=60)[1]
    return process.returncode, text, time.monotonic() - sent
