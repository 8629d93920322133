"""Power is lost after any system call of a run: what was acknowledged is still there, and the run goes on."""

import hashlib
import os
import re
import shutil

import pytest
from power_loss import LOSSES, Disk, replay, strace_command
from saving_run import FAST, saved_steps
from training_run import run_difference, sample, steps_of


@pytest.fixture(scope="module")
def reference(experiment):
    experiment.config(**FAST)
    experiment.clear()
    log = experiment.folder / "calls"
    ended = experiment.train(wrap=strace_command(log))
    assert ended.code == 0, ended.text
    return log, experiment.set_aside("undisturbed")


def put_on_disk(out, files):
    shutil.rmtree(out, ignore_errors=True)
    for name, data in files.items():
        target = out / name
        if data is None:
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def moments(log, root):
    """What survives after each call, each different state once: (loss, number of the call, files, screen)."""
    disk, screen, seen = Disk(root), "", set()
    for number, text in enumerate(replay(log, disk)):
        screen += text
        for loss in LOSSES:
            files = disk.survivors(loss)
            key = hashlib.sha256(repr((sorted(files.items(), key=lambda item: item[0]), saved_steps(screen))).encode())
            if key.digest() in seen:
                continue
            seen.add(key.digest())
            yield loss, number, files, screen


def test_the_model_ends_where_the_disk_does(experiment, reference):
    log, run = reference
    disk = Disk(experiment.folder)
    for _ in replay(log, disk):
        pass
    for loss in (LOSSES[0], LOSSES[1]):
        files = {
            name[len("run/") :]: data
            for name, data in disk.survivors(loss).items()
            if name.startswith("run/") and data is not None
        }
        files.pop(".lock", None)
        real = {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
        # Only a removal need not be made to survive: a pruned checkpoint may come back, whole.
        back = {name for name in files if name not in real}
        assert {name: data for name, data in files.items() if name in real} == real, loss
        assert not back or (loss == LOSSES[0] and all(name.startswith("checkpoints/") for name in back)), back


def test_power_lost_after_every_call(experiment, reference, tally):
    log, run = reference
    experiment.config(**FAST)
    for loss in LOSSES:
        states = [moment for moment in moments(log, experiment.folder) if moment[0] == loss]
        assert len(states) > (10 if loss == LOSSES[0] else 60), (loss, len(states))
        for _, number, files, screen in sample(states, 16):
            put_on_disk(
                experiment.out,
                {name[len("run/") :]: data for name, data in files.items() if name.startswith("run/")},
            )
            saved = saved_steps(screen)
            ended = experiment.train("--resume")
            difference = "" if ended.code == 0 else ended.text
            begun = [int(step) for step in re.findall(r"^step (\d+)/", ended.text, flags=re.M)]
            if saved and begun and begun[0] <= max(saved):
                difference = difference or f"step {max(saved)} was acknowledged, but step {begun[0]} was run"
            difference = difference or run_difference(experiment.out, run)
            tally.add(f"power lost: {loss}", "lost" if difference else "survived")
            assert not difference, (number, difference)
            assert max(steps_of(experiment.out)) == FAST["max_steps"]


def test_everything_is_synced_in_the_right_order(experiment):
    """A folder gets its name when its files and their names are on the disk; an old one goes after that."""
    experiment.config(**FAST)
    experiment.clear()
    log = experiment.folder / "synced"
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
