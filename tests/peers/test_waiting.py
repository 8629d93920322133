"""How the programs' threads wait for each other: what libgomp says it was told."""

import os
import re
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(os.environ["QLORA_BIN"]) / "qlora-train"


def waiting(**variables):
    """OMP_WAIT_POLICY and GOMP_SPINCOUNT as libgomp read them when it was loaded."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [PROGRAM, "--version"],
        env=environment | {"OMP_DISPLAY_ENV": "verbose"} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    told = dict(re.findall(r"(OMP_WAIT_POLICY|GOMP_SPINCOUNT) = '(\w+)'", done.stderr))
    return told["OMP_WAIT_POLICY"], told["GOMP_SPINCOUNT"]


def test_threads_spin_briefly_and_then_sleep():
    assert waiting() == ("PASSIVE", "10000")


@pytest.mark.parametrize(
    "variables", [{"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "passive"}]
)
def test_what_the_user_sets_stays(variables):
    policy, rounds = waiting(**variables)
    assert policy == variables.get("OMP_WAIT_POLICY", "passive").upper()
    assert rounds == variables.get("GOMP_SPINCOUNT", rounds) and rounds != "10000"


def test_a_program_starts_once():
    done = subprocess.run(
        ["strace", "-f", "-e", "trace=execve", PROGRAM, "--version"], capture_output=True, text=True
    )
    assert done.stderr.count("execve(") == 1, done.stderr
