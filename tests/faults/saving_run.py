"""A short run that saves often, made once for each file of tests, and what a fault may have cost it.

Faults are injected into system calls by strace: the n-th call of each kind that changes files.
"""

import collections
import re

import pytest
from training_run import folder_difference, run_difference, sample, steps_of

# Everything by which a run changes what is on the disk.
CALLS = (
    "openat",
    "mkdir",
    "write",
    "fsync",
    "rename",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "ftruncate",
    "close",
)
CHANGING = tuple(name for name in CALLS if name not in ("openat", "close"))
FAST = {
    "max_steps": 6,
    "save_steps": 2,
    "save_total_limit": 2,
    "eval_steps": 3,
    "sample_rows": 0,
    "learning_rate": 1e-2,
}


@pytest.fixture(scope="module")
def reference(experiment):
    """The undisturbed run with all its checkpoints."""
    experiment.config(**FAST)
    experiment.clear()
    ended = experiment.train(training__save_total_limit=None, training__save_steps=1)
    assert ended.code == 0, ended.text
    kept = experiment.set_aside()
    experiment.clear()
    assert experiment.train().code == 0
    # Checkpoints hold their run's settings, so those of the comparison are the run's own.
    own = experiment.set_aside("own")
    assert folder_difference(own / "adapter", kept / "adapter") == ""
    return own


@pytest.fixture(scope="module")
def checkpoints(experiment, reference):
    """What each checkpoint of the run must be, pruned ones included."""
    experiment.config(**FAST)
    experiment.clear()
    ended = experiment.train(training__save_total_limit=None)
    assert ended.code == 0, ended.text
    for file in experiment.out.rglob("run_state.json"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace('"save_total_limit": null', '"save_total_limit": 2'), encoding="utf-8")
    return experiment.set_aside("every")


@pytest.fixture(scope="module")
def calls(experiment, reference):
    """How often a run makes each call."""
    experiment.config(**FAST)
    experiment.clear()
    log = experiment.folder / "calls"
    assert (
        experiment.train(wrap=["strace", "-f", "-qq", "-o", log, "-e", f"trace={','.join(CALLS)}"]).code == 0
    )
    counts = collections.Counter(re.findall(r"^\d+ +(\w+)\(", log.read_text(encoding="utf-8"), flags=re.M))
    assert counts["fsync"] > 40 and counts["rename"] > 20 and counts["renameat2"] >= 0
    return counts


def points(counts, names, count):
    """(call, n) over all calls of these names; at least one of each name."""
    chosen = []
    total = sum(counts[name] for name in names)
    for name in names:
        chosen += [
            (name, n) for n in sample(range(1, counts[name] + 1), max(2, round(count * counts[name] / total)))
        ]
    return chosen


def saved_steps(text):
    """Steps whose save was acknowledged."""
    return [int(step) for step in re.findall(r"^saved .*/checkpoints/step-(\d+)$", text, flags=re.M)]


def faults_of(experiment, checkpoints, text):
    """Broken checkpoints, and acknowledged ones with nothing whole left."""
    faults = []
    for step in steps_of(experiment.out):
        ours, whole = (folder / f"checkpoints/step-{step}" for folder in (experiment.out, checkpoints))
        names = (
            [path.name for path in whole.iterdir() if path.name != "manifest.json"] if whole.is_dir() else []
        )
        if not names:
            faults.append(f"step-{step} is not one of the undisturbed run")
        faults += [
            f"step-{step}: {name}"
            for name in names
            if not (ours / name).is_file() or (ours / name).read_bytes() != (whole / name).read_bytes()
        ]
        if not (ours / "manifest.json").is_file():
            faults.append(f"step-{step}: no manifest")
    saved = saved_steps(text)
    if saved and max(saved) > max(steps_of(experiment.out), default=0):
        faults.append(f"step {max(saved)} was acknowledged, {steps_of(experiment.out)} are there")
    return faults


def resume_to_the_end(experiment, reference):
    ended = experiment.train("--resume")
    assert ended.code == 0, ended.text
    return run_difference(experiment.out, reference)


def note_outcome(tally, name, lost, silent):
    tally.add(name, "lost" if lost else "silent" if silent else "survived")
