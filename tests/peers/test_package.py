"""The archive of scripts/package.sh runs where nothing else is: unpacked elsewhere, in a root folder of its own that holds
the C library, a shell and /proc besides, it trains the smoke configuration, evaluates, merges and quantizes."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

# The C library and its parts: what every system has.
C_LIBRARY = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1")
NAMESPACE = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
# Inside the namespace, where the first argument becomes the root folder.
ENTER = 'mount --rbind /proc "$1/proc" && exec chroot "$@"'


def packed(root, build, output, *options):
    """Runs scripts/package.sh; returns the folder that it filled and what it printed."""
    run = subprocess.run([root / "scripts" / "package.sh", "--build", build, "--output", output, "--level", "1", *options],
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return next(path for path in output.iterdir() if path.is_dir()), run.stdout


@pytest.fixture(scope="module")
def package(root, bin_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    made, printed = packed(root, bin_dir.parent, folder)
    name = made.name
    shutil.rmtree(made)  # nothing may be found where it was made
    yield folder / f"{name}.tar.zst", printed
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def elsewhere(root, package, tiny_model, tmp_path_factory):
    """A root folder with the unpacked archive, a model and data, and nothing more than the C library and a shell."""
    base = tmp_path_factory.mktemp("elsewhere")
    for name in ("lib64", "lib/x86_64-linux-gnu", "bin", "proc", "put here", "project/configs", "project/data", "project/models"):
        (base / name).mkdir(parents=True)
    allowed = [*NAMESPACE, "sh", "-c", 'mount --rbind /proc "$1/proc" && chroot / true', "sh", base]
    if (tried := subprocess.run(allowed, capture_output=True, text=True)).returncode != 0:
        pytest.skip(f"neither root nor a namespace of its own is allowed here: {tried.stderr.strip()}")
    shutil.copy("/lib64/ld-linux-x86-64.so.2", base / "lib64")
    for name in C_LIBRARY:
        shutil.copy(Path("/lib/x86_64-linux-gnu") / name, base / "lib/x86_64-linux-gnu")
    shutil.copy("/bin/sh", base / "bin")
    subprocess.run(["tar", "-C", base / "put here", "-xf", package[0]], check=True)
    shutil.copy(root / "configs" / "smoke.json", base / "project/configs")
    shutil.copytree(tiny_model(tie=True), base / "project/models/tiny-llama")
    for name, rows in (("wordnet_train.jsonl", 40), ("wordnet_eval.jsonl", 10)):
        lines = (root / "data" / name).read_text().splitlines(keepends=True)[:rows]
        (base / "project/data" / name).write_text("".join(lines))
    yield base
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def unpacked(elsewhere):
    return next((elsewhere / "put here").iterdir())


def run_elsewhere(elsewhere, program, *arguments, **environment):
    name = next((elsewhere / "put here").iterdir()).name
    command = [*NAMESPACE, "sh", "-c", ENTER, "sh", elsewhere, f"/put here/{name}/bin/{program}", *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run


def test_from_training_to_merging_where_nothing_else_is(elsewhere):
    run_elsewhere(elsewhere, "qlora-train", "--config", "/project/configs/smoke.json")
    trained = json.loads(run_elsewhere(elsewhere, "qlora-eval", "--config", "/project/configs/smoke.json").stdout)
    run_elsewhere(elsewhere, "qlora-merge", "--model", "/project/models/tiny-llama", "--adapter", "/project/runs/smoke/adapter",
                  "--output", "/project/merged")
    merged = json.loads(run_elsewhere(elsewhere, "qlora-eval", "--model", "/project/merged", "--template", "chatml",
                                      "--data", "/project/data/wordnet_eval.jsonl").stdout)
    assert trained["rows"] == merged["rows"] == 10
    # Not equal: the adapter was trained on quantized weights and merged into the original ones.
    assert merged["loss"] == pytest.approx(trained["loss"], rel=0.02)
    run_elsewhere(elsewhere, "qlora-quantize", "--model", "/project/models/tiny-llama", "--output", "/project/in-4-bits")
    assert (elsewhere / "project/in-4-bits/model.safetensors").is_file()


def loaded(program, **environment):
    """The libraries that a program of the folder loads on this machine: name -> folder."""
    run = subprocess.run([program, "--version"], env={"PATH": "/usr/bin:/bin", "LD_DEBUG": "files", **environment},
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # The shell that starts the program is traced too, before it.
    return {Path(path).name: Path(path).parent.resolve() for path in re.findall(r"calling init: (.+)", run.stderr)}


def test_a_link_to_a_program_finds_its_folder(unpacked, tmp_path):
    link = tmp_path / "renamed"
    link.symlink_to(unpacked / "bin" / "qlora-merge")
    run = subprocess.run([link, "--version"], env={}, capture_output=True, text=True)
    assert run.stdout.startswith("qlora-merge"), run.stderr


def test_the_systems_cxx_library_is_taken_where_it_is_new_enough(unpacked, tmp_path):
    program = unpacked / "bin" / "qlora-train"
    libraries = loaded(program)
    assert libraries["libtorch_cpu.so"] == unpacked / "lib"
    assert not libraries["libstdc++.so.6"].is_relative_to(unpacked)
    (tmp_path / "libstdc++.so.6").write_bytes(b"GLIBCXX_3.4.19")  # an old one, which could not even be loaded
    assert loaded(program, LD_LIBRARY_PATH=str(tmp_path))["libstdc++.so.6"] == unpacked / "lib" / "gcc"


def test_a_libtorch_elsewhere_is_named_as_passed_over(unpacked):
    run = subprocess.run([unpacked / "bin" / "qlora-train", "--version"], env={"QLORA_TORCH_LIB": "/elsewhere"},
                         capture_output=True, text=True)
    assert run.returncode == 0 and "QLORA_TORCH_LIB is passed over" in run.stderr


def test_only_the_same_build_of_libtorch_gives_its_cuda_libraries(elsewhere, unpacked):
    """Where the CUDA plug-in and a driver are: the starter looks for LibTorch's CUDA libraries, and at their build."""
    plug_in, driver, torch = unpacked / "lib/libqlora_kernels_cuda.so", elsewhere / "dev/nvidiactl", elsewhere / "torch"
    for file in (plug_in, driver, torch / "lib/libtorch_cuda.so"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    shutil.copy("/bin/cat", elsewhere / "bin")
    try:
        for changes in ("", "git_version = 'another'\n"):
            (torch / "version.py").write_text((unpacked / "lib/torch/version.py").read_text() + changes)
            run = run_elsewhere(elsewhere, "qlora-train", "--version", QLORA_TORCH_LIB="/torch/lib", LD_DEBUG="libs")
            assert ("are passed over: they are of another build" in run.stderr) == bool(changes)
            assert bool(re.search(r"search path=\S*:/torch/lib", run.stderr.replace("put here", "put"))) != bool(changes)
    finally:
        plug_in.unlink()
        driver.unlink()


def test_every_library_is_inside_or_of_the_c_library_and_none_is_looked_for_where_it_was_built(unpacked):
    files = [path for path in unpacked.rglob("*") if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]
    inside = {path.name for path in (unpacked / "lib").rglob("*.so*")}
    assert len(files) > 10
    for path in files:
        dynamic = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
        outside = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)) - inside - {"ld-linux-x86-64.so.2"}
        assert outside <= set(C_LIBRARY), path
        searched = re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", dynamic)
        assert all(folder.startswith("$ORIGIN") for folder in ":".join(searched).split(":") if folder), path


def test_the_oldest_glibc_is_the_one_that_the_files_name(unpacked, package):
    newest = (0, 0)
    for path in unpacked.rglob("*"):
        if path.is_file() and path.parent.name != "gcc" and path.read_bytes()[:4] == b"\x7fELF":
            needed = subprocess.run(["readelf", "-V", path], capture_output=True, text=True, check=True).stdout
            versions = re.findall(r"GLIBC_(\d+)\.(\d+)", needed)
            newest = max([newest, *((int(major), int(minor)) for major, minor in versions)])
    assert f"oldest glibc: {newest[0]}.{newest[1]} " in package[1]
    assert f"glibc {newest[0]}.{newest[1]}" in (unpacked / "README.txt").read_text()


def test_licences_and_ten_lines_of_text_come_along(unpacked):
    names = {path.name for path in (unpacked / "share/doc/qlora/licences").iterdir()}
    assert {"libtorch-LICENSE", "libtorch-NOTICE", "libsentencepiece0-copyright", "libcli11-dev-copyright",
            "nlohmann-json3-dev-copyright"} <= names
    assert (unpacked / "share/doc/qlora/LICENSE").is_file()
    assert len((unpacked / "README.txt").read_text().splitlines()) == 10
    assert not [path for path in unpacked.rglob("*") if path.suffix in (".h", ".a", ".pyc") or "python" in path.name]


def test_sizes_are_printed_of_what_is_in_and_of_what_stayed_out(package):
    printed = package[1]
    assert re.search(r"^package: +[\d.]+  lib/libtorch_cpu\.so$", printed, re.M)
    assert re.search(r"^package: +[\d.]+  include/$", printed, re.M)
    assert re.search(rf"{re.escape(package[0].name)}: \d+ MB, unpacked \d+ MB", printed)


def test_an_option_that_is_none_is_refused(root):
    for options in (["--fast"], ["--level", "20"], ["--output"]):
        run = subprocess.run([root / "scripts" / "package.sh", *options], capture_output=True, text=True)
        assert run.returncode == 2 and run.stderr.count("\n") == 1


@pytest.mark.skipif(not os.environ.get("QLORA_FULL"), reason="packs everything twice: part of scripts/test.sh --full")
def test_the_debian_package_holds_the_same_files(root, bin_dir, tmp_path):
    made, _ = packed(root, bin_dir.parent, tmp_path, "--deb")
    package = next(tmp_path.glob("qlora_*_amd64.deb"))
    fields = subprocess.run(["dpkg-deb", "--field", package], capture_output=True, text=True, check=True).stdout
    assert re.search(r"^Depends: libc6 \(>= 2\.34\), libstdc\+\+6 \(>= 12\), libgcc-s1$", fields, re.M)
    installed = tmp_path / "installed"
    subprocess.run(["dpkg-deb", "--extract", package, installed], check=True)

    def files(folder):
        return {path.relative_to(folder): path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()}

    assert files(installed / "opt/qlora") == files(made)
    run = subprocess.run([installed / "usr/bin/qlora-eval", "--version"], env={}, capture_output=True, text=True)
    assert run.stdout.startswith("qlora-eval"), run.stderr
