"""A run whose disk fails or fills at any moment of a save: no checkpoint is ever lost."""

import os
import re
import shutil
import subprocess

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
from training_run import FULL, folder_difference, leftovers, sample, steps_of, strace

ERRORS = ("ENOSPC", "EIO")
FAILING = tuple(name for name in CHANGING if name not in ("unlinkat", "rmdir"))


@pytest.mark.parametrize("error", ERRORS)
def test_one_failing_call(experiment, reference, checkpoints, calls, tally, error):
    """The n-th call fails once: the run says so, keeps what it has and finishes; or it never began."""
    experiment.config(**FAST)
    problems = []
    # The two errors take the same way through the program: each at every other point, at all of them with FULL.
    chosen = points(calls, FAILING, 34)
    for name, number in chosen if FULL else chosen[ERRORS.index(error) :: 2]:
        experiment.clear()
        log = experiment.folder / "calls"
        ended = experiment.train(wrap=strace(f"{name}:error={error}:when={number}", log=log))
        injected = re.search(r"^\d+ +(.*) = -1 .*\(INJECTED\)", log.read_text(encoding="utf-8"), flags=re.M)
        assert injected, (name, number)
        own_output = injected[1].startswith("write(2,")  # a line for the screen: nothing is lost with it
        lost = faults_of(experiment, checkpoints, ended.text)
        left = leftovers(experiment.out) if experiment.out.exists() else []
        if injected[1].startswith("unlink(") and ".lock" in injected[1]:
            left = [path for path in left if path.name != ".lock"]  # the file is not the lock
        if ended.code == 0:
            silent = folder_difference(experiment.out / "adapter", reference / "adapter")
        else:
            began = "step 1/" in ended.text  # from then on one fault never ends a run
            silent = (
                ""
                if ended.code in (2, 4) and "error:" in ended.text and not began
                else f"ended with {ended.code}"
            )
        if not lost:
            # Before a run is there, it is a start; after that a resume.
            silent = silent or resume_to_the_end(experiment, reference)
        note_outcome(tally, f"{error} once", lost, silent or left)
        unsaid = ended.code == 0 and not own_output and not mentions(ended.text, name, injected[1])
        if lost or silent or left or unsaid:
            problems.append(
                (name, number, injected[1][:150], ended.code, lost, silent, left, ended.text[-600:])
            )
    assert problems == []


def mentions(text, name, call):
    """Whether the run speaks of a fault that it outlived. A folder that is there already, a name that is
    already free, and the lock's process id (a courtesy) may fail unnoticed."""
    harmless = name in ("mkdir", "unlink", "ftruncate") or ".lock" in call
    return harmless or "warning:" in text


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_a_disk_that_stays_broken(experiment, reference, checkpoints, calls, tally, error, name):
    """From the n-th call on nothing can be saved: training goes on to its end, then exit 4 and a sentence."""
    experiment.config(**FAST)
    # Three syncs put the run's folder and its settings on the disk: without them no run begins.
    for number in sample(range(4, calls[name]), 4 if error == ERRORS[0] else 3):
        experiment.clear()
        ended = experiment.train(wrap=strace(f"{name}:error={error}:when={number}+"))
        assert ended.code == 4, ended.text
        assert "was not saved" in ended.text and "bytes" in ended.text, ended.text
        lost = faults_of(experiment, checkpoints, ended.text)
        left = leftovers(experiment.out)
        difference = resume_to_the_end(experiment, reference)
        note_outcome(tally, f"{error} for good", lost, difference or left)
        assert not lost and not left and not difference, (number, lost, left, difference)


# A disk that is really full


@pytest.fixture
def small_disk(experiment):
    """small_disk(size) makes the output folder a file system of that many bytes; needs root."""
    folder = experiment.out

    def mount(size):
        experiment.clear()
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
        )
        if done.returncode:
            folder.rmdir()
            pytest.skip(f"no right to mount a file system: {done.stderr.decode().strip()}")

    def unmount():
        return subprocess.run(["umount", str(folder)], capture_output=True).returncode == 0

    mount.unmount = unmount
    yield mount
    while unmount():
        pass


def used_bytes(folder):
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bavail) * status.f_frsize


def test_a_small_disk(experiment, reference, checkpoints, tally, small_disk):
    """From nothing to more than a run needs: refused, or ended with 4 and whole checkpoints, or done."""
    experiment.config(**FAST)
    pages = 4096
    checkpoint = sum(
        -(-path.stat().st_size // pages) + 1 for path in (reference / "checkpoints/step-6").iterdir()
    )
    codes = []
    for size in sample(range(1, 9 * checkpoint), 200 if FULL else 20):
        small_disk(size * pages)
        ended = experiment.train()
        codes.append(ended.code)
        lost = faults_of(experiment, checkpoints, ended.text)
        left = leftovers(experiment.out)
        assert ended.code in (0, 4), ended.text
        if ended.code == 4:
            assert re.search(r"\d+ bytes", ended.text), ended.text
            if not steps_of(experiment.out):
                assert "was not saved" in ended.text or "the disk is" in ended.text, ended.text
        silent = ended.code == 0 and folder_difference(experiment.out / "adapter", reference / "adapter")
        # Saved elsewhere, what is there goes on to the same result.
        copy = experiment.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(experiment.out, copy)
        assert small_disk.unmount()
        experiment.clear()
        copy.rename(experiment.out)
        silent = silent or resume_to_the_end(experiment, reference)
        note_outcome(tally, "small disk", lost, silent or left)
        assert not lost and not silent and not left, (size, ended.code, lost, silent, left, ended.text)
    assert codes[0] == 4 and codes[-1] == 0, codes


def test_room_for_two_checkpoints_is_asked_for_before_training(experiment, tally, small_disk):
    experiment.config(**FAST)
    small_disk(100 << 10)  # one checkpoint would fit
    ended = experiment.train()
    assert ended.code == 4 and "bytes needed" in ended.text and "free" in ended.text, ended.text
    assert (
        "step 1/" not in ended.text
        and leftovers(experiment.out) == []
        and list(experiment.out.iterdir()) == []
    )
    tally.add("no room for two checkpoints")
