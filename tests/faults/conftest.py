"""The fixtures of tests/peers, and what the fault tests share: a small run in memory, and the tally."""

import importlib.util
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from training_run import Experiment, Tally

PEERS = Path(__file__).resolve().parents[1] / "peers" / "conftest.py"
spec = importlib.util.spec_from_file_location("peers_conftest", PEERS)
peers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peers)

root, threads, bin_dir, tiny_model = peers.root, peers.threads, peers.bin_dir, peers.tiny_model

TRAIN_ROWS, EVAL_ROWS = 34, 6
TALLIES = pytest.StashKey()


@pytest.fixture(scope="session")
def small_model(tiny_model):
    return tiny_model(hidden=32, heads=2, kv_heads=1, vocab=320)


def write_rows(file, first, count):
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"word {i} " + "x y " * (i % 5)},
                {"role": "assistant", "content": f"answer {i * 7 % 13} of {i}"},
            ]
        }
        for i in range(first, first + count)
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def experiment(bin_dir, small_model):
    """A folder with data and run.json; in /dev/shm where there is one: a save syncs dozens of times."""
    shared_memory = Path("/dev/shm")
    folder = Path(
        tempfile.mkdtemp(prefix="qlora-faults-", dir=shared_memory if shared_memory.is_dir() else None)
    )
    write_rows(folder / "train.jsonl", 0, TRAIN_ROWS)
    write_rows(folder / "eval.jsonl", TRAIN_ROWS, EVAL_ROWS)
    yield Experiment(bin_dir / "qlora-train", folder, small_model)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def every_step(experiment):
    """A run that nothing disturbs, with a checkpoint of each step."""
    return experiment.reference()


@pytest.fixture(scope="module")
def tally(request):
    """Counts of injected faults per class; shown for each file at the end."""
    return request.config.stash[TALLIES].setdefault(request.path.name, Tally())


# The tallies of all processes (pytest-xdist) come together in the one that reports.


def pytest_configure(config):
    config.stash[TALLIES] = {}


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        tallies = session.config.stash[TALLIES].items()
        session.config.workeroutput["tallies"] = {name: tally.to_json() for name, tally in tallies}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    for name, values in getattr(node, "workeroutput", {}).get("tallies", {}).items():
        node.config.stash[TALLIES].setdefault(name, Tally()).merge(values)


def pytest_terminal_summary(terminalreporter, config):
    for name, tally in sorted(config.stash[TALLIES].items()):
        terminalreporter.section(f"faults injected by {name}")
        for line in tally.lines():
            terminalreporter.write_line(line)
