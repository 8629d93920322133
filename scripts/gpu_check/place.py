"""Where the programs are: in the folder that scripts/bundle.sh made, or built here beside the sources."""

import dataclasses
import os
import subprocess
from pathlib import Path

from build import BuildError, build

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Place:
    programs: Path | None  # folder with qlora-train
    tests: Path | None
    bench: Path | None
    notes: list  # why something is missing


def starts(program, *arguments):
    try:
        done = subprocess.run([program, *arguments], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def last_words(program, *arguments):
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def find_programs(notes):
    """The bundle's, those that QLORA_BIN names, or the build's."""
    named = os.environ.get("QLORA_BIN")
    for folder in [Path(named)] if named else [ROOT.parent / "bin", ROOT / "build" / "cuda" / "bin"]:
        program = folder / "qlora-train"
        if not program.is_file():
            continue
        if starts(program, "--version"):
            return folder
        notes.append(f"{program} does not start: {last_words(program, '--version')}")
        return None
    notes.append("no qlora-train here: make the folder with scripts/bundle.sh, or set QLORA_BIN")
    return None


def find_place(work, jobs, rebuild=False):
    """Programs that were built elsewhere where they start, else what nvcc can build here."""
    notes = []
    place = Place(find_programs(notes), None, None, notes)
    folder = ROOT.parent / "libexec" / "qlora"
    tests, bench = folder / "cuda_tests", folder / "cuda_kernels_bench"
    if not rebuild and tests.is_file() and starts(tests, "--gtest_list_tests"):
        place.tests, place.bench = tests, bench if bench.is_file() else None
        return place
    if tests.is_file() and not rebuild:
        notes.append(f"{tests} does not start: {last_words(tests, '--gtest_list_tests')}; built anew")
    try:
        place.tests, place.bench = build(ROOT, work / "build", jobs, notes)
    except BuildError as error:
        notes.append(str(error))
    return place
