"""The fixtures of tests/peers, and what the fault tests share: a small run in memory-backed storage, and the tally."""

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
    """A folder with data and run.json; in /dev/shm where there is one, because every save syncs dozens of times."""
    shared_memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="qlora-faults-", dir=shared_memory if shared_memory.is_dir() else None))
    write_rows(folder / "train.jsonl", 0, TRAIN_ROWS)
    write_rows(folder / "eval.jsonl", TRAIN_ROWS, EVAL_ROWS)
    yield Experiment(bin_dir / "qlora-train", folder, small_model)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def tally(request):
    """Counts of injected faults per class; one line each at the end of the file."""
    counts = Tally()
    yield counts
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print()
        for line in counts.lines():
            print(line)
