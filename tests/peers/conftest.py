"""Fixtures of the tests that compare with the Python packages: programs, the real model, tiny random models.

QLORA_BIN      folder with the built programs (needed by tests that run them)
QLORA_SMOLLM2  the folder that scripts/fetch_smollm2.py writes; default: models/SmolLM2-135M-Instruct
"""

import dataclasses
import hashlib
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
# The tests compare files on this machine: nothing may be looked up on the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def threads():
    """torch takes the thread count that the programs under test take."""
    count = int(os.environ.get("OMP_NUM_THREADS", "1"))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    else:
        os.environ["OMP_NUM_THREADS"] = str(count)  # read when torch is loaded
    return count


@pytest.fixture(scope="session")
def bin_dir():
    value = os.environ.get("QLORA_BIN")
    if not value:
        pytest.fail("QLORA_BIN is not set: it names the folder with the built programs (build/release/bin)")
    folder = Path(value).resolve()
    if not (folder / "qlora-train").is_file():
        pytest.fail(f"QLORA_BIN={value} holds no qlora-train: build the programs first")
    return folder


@pytest.fixture(scope="session")
def smollm2():
    folder = Path(os.environ.get("QLORA_SMOLLM2", ROOT / "models" / "SmolLM2-135M-Instruct")).resolve()
    if not (folder / "model.safetensors").is_file():
        pytest.fail(f"{folder} holds no model: run scripts/fetch_smollm2.py, or set QLORA_SMOLLM2")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """tiny_model(model_type="qwen3", bias=True, ...) -> folder; options as in TinyModel, made once a session.

    The folder is shared: a test that changes files copies it first.
    """
    from make_tiny_model import TinyModel, make_tiny_model

    base = tmp_path_factory.mktemp("tiny")

    def make(**options):
        wanted = TinyModel(**options)
        name = hashlib.sha256(repr(dataclasses.astuple(wanted)).encode()).hexdigest()[:12]
        folder = base / f"{wanted.model_type}-{name}"
        return folder if folder.is_dir() else make_tiny_model(folder, wanted)

    return make
