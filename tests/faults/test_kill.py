"""A run that is killed, or whose disk fails or fills, at any moment of a save: no checkpoint is ever lost.

Faults are injected into system calls by strace: the n-th call of each kind that changes files.
"""

import collections
import os
import random
import re
import shutil
import subprocess
import time

import pytest
from training_run import (
    FULL,
    folder_difference,
    leftovers,
    run_difference,
    sample,
    steps_of,
    strace,
)

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


# Power loss: nothing counts that was not synced


def test_everything_is_synced_in_the_right_order(experiment, reference):
    """A folder gets its name when its files and their names are on the disk; an old one goes after that."""
    experiment.config(**FAST)
    experiment.clear()
    log = experiment.folder / "calls"
    calls = "write,fsync,rename,renameat2,unlinkat,rmdir,unlink"
    assert (
        experiment.train(
            wrap=["strace", "-f", "-y", "-qq", "-s", "0", "-o", log, "-e", f"trace={calls}"]
        ).code
        == 0
    )
    unsynced = set()  # files with unsynced bytes, folders with unsynced names
    renamed = 0
    for line in log.read_text(encoding="utf-8").splitlines():
        call, rest = re.match(r"\d+ +(\w+)\((.*)", line).groups()
        named = [path for path in re.findall(r'"([^"]*)"', rest) if path.startswith("/")]
        opened = re.match(r"\d+<([^>]*)>", rest)
        if call == "write" and opened and opened[1].startswith(str(experiment.out)):
            unsynced.add(opened[1])
        elif call == "fsync":
            unsynced.discard(opened[1])
        elif call in ("rename", "renameat2"):
            old, new = named
            inside = {path for path in unsynced if path == old or path.startswith(old + "/")}
            assert not inside, f"{old} got the name {new} before {inside} was synced"
            if "/.tmp-" in new:
                # A checkpoint on its way out: what takes its place is there for good.
                assert not unsynced & {os.path.dirname(new)}, (
                    f"{old} was removed before its successor was safe"
                )
            unsynced.add(os.path.dirname(new))
            renamed += re.search(r"/step-\d+$", new) is not None
    assert renamed >= 4
    assert not {path for path in unsynced if os.path.isfile(path)}, unsynced


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
