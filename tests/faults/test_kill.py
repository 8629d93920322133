"""A run that is killed at any moment of a save: no checkpoint is ever lost."""

import random
import subprocess
import time

import pytest
from saving_run import (
    CHANGING,
    FAST,
    calls,
    checkpoints,
    faults_of,
    note_outcome,
    points,
    reference,
    resume_to_the_end,
)
from training_run import FULL, folder_difference, run_difference, steps_of, strace


def test_killed_at_every_call(experiment, reference, checkpoints, calls, tally):
    experiment.config(**FAST)
    problems = []
    for name, number in points(calls, CHANGING, 32):
        experiment.clear()
        ended = experiment.train(wrap=strace(f"{name}:signal=KILL:when={number}"))
        assert ended.code in (-9, 137), (name, number, ended.code, ended.text)
        lost = faults_of(experiment, checkpoints, ended.text)
        difference = "" if lost else resume_to_the_end(experiment, reference)
        note_outcome(tally, f"killed at {name}", lost, difference)
        if lost or difference:
            problems.append((name, number, lost, difference))
    assert problems == []


def test_killed_while_resuming(experiment, reference, checkpoints, calls, tally):
    """The second process is killed too, at the calls with which it tidies up and saves again."""
    experiment.config(**FAST)
    half = calls["fsync"] // 2
    for name, number in points(calls, ("rename", "unlinkat", "fsync"), 12):
        experiment.clear()
        experiment.train(wrap=strace(f"fsync:signal=KILL:when={half}"))
        ended = experiment.train("--resume", wrap=strace(f"{name}:signal=KILL:when={(number + 1) // 2}"))
        lost = faults_of(experiment, checkpoints, ended.text)
        difference = "" if lost else resume_to_the_end(experiment, reference)
        note_outcome(tally, "killed again while resuming", lost, difference)
        assert not lost and not difference, (name, number, lost, difference)


def test_killed_where_folders_cannot_be_exchanged(experiment, reference, checkpoints, tally):
    """renameat2 refused, as on some network file systems: a folder is replaced by two renames."""
    experiment.config(**FAST)
    no_exchange = "renameat2:error=EINVAL"
    renames, number = 0, 0
    while True:
        number += 1
        experiment.put_back(reference)
        newest = max(steps_of(experiment.out))
        state = experiment.out / f"checkpoints/step-{newest}/run_state.json"
        state.write_text(
            state.read_text(encoding="utf-8") + " ", encoding="utf-8"
        )  # broken: written once more
        ended = experiment.train("--resume", wrap=strace(no_exchange, f"rename:signal=KILL:when={number}"))
        if ended.code == 0:
            break
        renames += 1
        assert ended.code in (-9, 137), ended.text
        older = [step for step in steps_of(experiment.out) if step != newest]
        assert older, "the older checkpoint stays"
        difference = resume_to_the_end(experiment, reference)
        note_outcome(tally, "killed between two renames", False, difference)
        assert not difference
    assert run_difference(experiment.out, reference) == "" and renames >= 8


@pytest.fixture(scope="module")
def longer(experiment):
    """A finished run of 4 steps, and the same gone on with to 6: two results that one folder has in turn."""
    settings = FAST | {"max_steps": 4, "lr_scheduler_type": "constant", "warmup_steps": 0}
    experiment.config(**settings)
    experiment.clear()
    assert experiment.train().code == 0
    short = experiment.set_aside("short")
    experiment.put_back(short)
    assert experiment.train("--resume", training__max_steps=6).code == 0
    longer = experiment.set_aside("longer")
    assert folder_difference(short / "adapter", longer / "adapter") != ""
    return settings, short, longer


@pytest.mark.parametrize("exchange", [True, False])
def test_a_result_is_replaced_in_one_step(experiment, longer, tally, exchange):
    """Killed at every rename and removal: `adapter/` is the old result or the new one. Where the file system
    cannot exchange folders, it is at the latest when the next run has looked at it."""
    settings, old, new = longer
    experiment.config(**settings)
    other = () if exchange else ("renameat2:error=EINVAL",)
    for name in ("rename", "unlinkat", "rmdir", *(("renameat2",) if exchange else ())):
        number, killed = 0, 0
        while True:
            number += 1
            experiment.put_back(old)
            injections = (*other, f"{name}:signal=KILL:when={number}")
            ended = experiment.train("--resume", wrap=strace(*injections), training__max_steps=6)
            if ended.code == 0:
                break
            assert ended.code in (-9, 137), ended.text
            killed += 1
            if not exchange:
                # Any run in the folder puts it right; this one is refused afterwards.
                assert experiment.train("--resume", training__seed=1).code == 2
            differences = [
                folder_difference(experiment.out / "adapter", run / "adapter")
                if (experiment.out / "adapter").is_dir()
                else "missing"
                for run in (old, new)
            ]
            tally.add("killed while replacing", "lost" if all(differences) else "survived")
            assert not all(differences), (name, number, differences)
        assert killed >= (1 if name in ("renameat2", "rmdir") else 3), (name, killed)
        assert folder_difference(experiment.out / "adapter", new / "adapter") == ""


def test_killed_at_random_moments(experiment, tally):
    """Killed again and again and started again each time: the result is that of the undisturbed run."""
    settings = FAST | {"max_steps": 400, "save_steps": 1, "eval_steps": 50, "logging_steps": 7}
    experiment.config(**settings)
    experiment.clear()
    started = time.monotonic()
    assert experiment.train().code == 0
    length = time.monotonic() - started
    reference = experiment.set_aside("long")
    chance = random.Random(3)
    experiment.clear()
    killed, wanted = 0, 500 if FULL else 20
    while killed < wanted:
        process = experiment.start("--resume")
        try:
            code = process.wait(timeout=chance.uniform(0.2, 0.3 + length / 8))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            tally.add("killed at a random moment")
            continue
        text = process.communicate()[1]
        assert code == 0, text
        assert run_difference(experiment.out, reference) == ""
        experiment.clear()
    assert experiment.train("--resume").code == 0
    assert run_difference(experiment.out, reference) == ""
