"""The installed folder runs elsewhere: moved, with an empty environment, its LibTorch found in the three ways promised."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

PROGRAMS = ("qlora-train", "qlora-eval", "qlora-merge", "qlora-quantize", "qlora-data")
PATH = "/usr/bin:/bin"


@pytest.fixture(scope="module")
def installed(bin_dir, tmp_path_factory):
    first = tmp_path_factory.mktemp("install") / "first"
    subprocess.run(["cmake", "--install", bin_dir.parent, "--prefix", first], check=True, capture_output=True)
    moved = first.parent / "moved here"
    shutil.move(first, moved)
    return moved


@pytest.fixture(scope="module")
def torch_lib():
    return Path(sysconfig.get_paths()["purelib"]) / "torch" / "lib"


def version(program, **environment):
    return subprocess.run([program, "--version"], env={"PATH": PATH, **environment}, capture_output=True, text=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_moved_folder_runs_with_qlora_torch_lib(installed, torch_lib, name):
    run = version(installed / "bin" / name, QLORA_TORCH_LIB=str(torch_lib))
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(name) and "LibTorch 2.11" in run.stdout


def test_it_finds_the_active_pythons_libtorch(installed, torch_lib):
    environment = torch_lib.parents[4]
    assert version(installed / "bin" / "qlora-train", VIRTUAL_ENV=str(environment)).returncode == 0
    run = version(installed / "bin" / "qlora-train", PATH=f"{environment / 'bin'}:{PATH}")
    assert run.returncode == 0, run.stderr


def test_it_finds_libtorch_beside_it(installed, torch_lib):
    link = installed / "lib" / "libtorch_cpu.so"
    others = [path for path in torch_lib.glob("*.so*") if path.name != link.name]
    made = []
    for path in [torch_lib / link.name, *others]:
        target = installed / "lib" / path.name
        if not target.exists():
            os.symlink(path, target)
            made.append(target)
    try:
        assert version(installed / "bin" / "qlora-train").returncode == 0
    finally:
        for target in made:
            target.unlink()


def test_without_libtorch_it_says_so_in_one_sentence(installed):
    run = version(installed / "bin" / "qlora-train")
    assert run.returncode == 2 and "QLORA_TORCH_LIB" in run.stderr and run.stderr.count("\n") == 1


def test_the_small_libraries_come_along(installed):
    names = {path.name.split(".")[0] for path in (installed / "lib").iterdir()}
    assert {"libspdlog", "libfmt", "libsentencepiece", "libpcre2-8", "libutf8proc", "libxxhash"} <= names
    assert not [name for name in names if "torch" in name or "c10" in name]
