"""scripts/gpu_check.sh as far as it goes without a GPU: its sentences, its comparisons and its table on
synthetic input, its training checks with the CPU as the card. Nothing here judges a time.
"""

import json
import os
import stat
import subprocess
import sys

import pytest

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


@pytest.fixture(scope="module", autouse=True)
def folders(root):
    added = [str(root / "bench"), str(root / "scripts" / "gpu_check")]
    sys.path[:0] = added
    yield
    for folder in added:
        sys.path.remove(folder)


@pytest.fixture
def results():
    from results import Results

    return Results(8, {"name": "a card"})


def outcomes(results):
    return {row["name"]: row["outcome"] for row in results.rows}


def fake(folder, name, body):
    """A program of that name in a folder for PATH."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


# --- the script ---


def check(root, environment, *arguments):
    script = root / "scripts" / "gpu_check.sh"
    return subprocess.run([script, *arguments], env=environment, capture_output=True, text=True)


def test_without_a_driver_it_says_so_in_one_sentence(root):
    done = check(root, ENVIRONMENT)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "gpu_check: this machine has no NVIDIA driver (nvidia-smi is not on PATH)\n"


def test_a_driver_without_a_gpu_and_a_missing_python_have_sentences_of_their_own(root, tmp_path):
    fake(tmp_path / "none", "nvidia-smi", "echo 'No devices were found'; exit 6")
    done = check(root, {"PATH": f"{tmp_path / 'none'}:/usr/bin:/bin"})
    assert done.returncode == 2
    assert done.stderr == "gpu_check: the NVIDIA driver lists no GPU (nvidia-smi -L)\n"
    fake(tmp_path / "one", "nvidia-smi", "echo 'GPU 0: a card (UUID: GPU-1)'")
    done = check(root, {"PATH": f"{tmp_path / 'one'}:/usr/bin:/bin", "PYTHON": "/nowhere/python3"})
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "/nowhere/python3" in done.stderr


def test_unknown_parts_are_refused_and_help_names_them(root):
    assert "training-speed" in check(root, os.environ, "--help").stdout


def test_where_nothing_is_built_every_part_is_skipped_and_the_table_says_why(root, tmp_path):
    """A card that nvidia-smi lists, no programs, no nvcc: a table, one JSON, no failure."""
    fake(tmp_path / "bin", "nvidia-smi", "echo 'GPU 0: a card'; echo 100")
    fake(tmp_path / "bin", "nvcc", "echo 'error: no compiler here' >&2; exit 1")
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHON": sys.executable}
    environment["QLORA_BIN"] = str(tmp_path)
    environment["CXX"] = str(fake(tmp_path / "bin", "no-work", "exit 0"))  # what nvcc refuses is the point
    parts = "kernels,training,kernel-speed"
    done = check(root, environment, "--parts", parts, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "out" / "gpu_check.json").read_text())["rows"]
    assert [(row["part"], row["outcome"]) for row in rows] == [
        ("kernels", "skipped"),
        ("training", "skipped"),
        ("kernel speed", "skipped"),
    ]
    assert "nvcc failed: error: no compiler here" in rows[0]["text"]
    assert "0 passed, 0 FAILED, 3 skipped, 0 measured" in done.stdout
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert left == ["gpu_check.json"], "no work folder"


# --- results ---


def test_the_table_counts_outcomes_and_aligns_columns(results):
    results.add("kernels", "tests on the card", "passed", "3 passed", tests=[1, 2, 3])
    results.add("speed", "x", "FAILED", "too slow")
    lines = results.table().splitlines()
    assert lines[0].split() == ["part", "what", "outcome", "figures"]
    assert lines[2] == "speed    x                  FAILED   too slow"
    assert lines[-1].startswith("1 passed, 1 FAILED, 0 skipped, 0 measured; ")
    assert results.as_json()["failed"] == 1 and results.as_json()["rows"][0]["tests"] == [1, 2, 3]


def test_no_program_gets_more_time_than_is_left():
    from results import RESERVE, Results

    results = Results((RESERVE + 30) / 60, {})
    assert 29 < results.limit(120) <= 30 and results.limit(5) == 5
    assert results.has_time("part", "name", 20) and not results.rows
    assert not results.has_time("part", "name", 40) and results.rows[0]["outcome"] == "skipped"


# --- kernel tests ---


def gtest_json(path, *tests):
    """tests: (suite, name, result, seconds, failures)"""
    suites = [
        {
            "name": suite,
            "testsuite": [
                {"name": name, "result": result, "time": f"{seconds}s"}
                | ({"failures": [{"failure": text} for text in failures]} if failures else {})
            ],
        }
        for suite, name, result, seconds, failures in tests
    ]
    path.write_text(json.dumps({"testsuites": suites}))
    return path


def test_failures_are_named_and_a_skipped_test_is_no_proof(results, tmp_path):
    from kernel_checks import judge, read_tests, short_tests

    good = ("DeviceA", "Works", "COMPLETED", 0.01, [])
    bad = ("DeviceB", "Breaks", "COMPLETED", 0.5, ["file.cpp:7\nExpected: 1\nWhich is: 2"])
    skipped = ("DeviceC", "Waits", "SKIPPED", 0, [])
    judge(results, read_tests(gtest_json(tmp_path / "a", good)), None)
    assert results.rows[-1]["outcome"] == "passed"
    judge(results, read_tests(gtest_json(tmp_path / "b", good, bad)), "exit code 1")
    assert [row["outcome"] for row in results.rows[-2:]] == ["FAILED", "FAILED"]
    assert results.rows[-1]["name"] == "DeviceB.Breaks"
    assert "Expected: 1 Which is: 2" in results.rows[-1]["text"]
    for tests, fault in (([good, skipped], None), ([], None), ([good], "exit code -11")):
        judge(results, read_tests(gtest_json(tmp_path / "c", *tests)), fault)
        assert results.rows[-1]["outcome"] == "FAILED"
    assert short_tests(read_tests(gtest_json(tmp_path / "d", bad, skipped, good))) == ["DeviceA.Works"]


def test_the_sanitizer_runs_on_the_short_tests_and_its_exit_code_counts(results, tmp_path, monkeypatch):
    import kernel_checks
    from place import Place

    listing = gtest_json(tmp_path / "source.json", ("DeviceA", "Works", "COMPLETED", 0.01, []))
    copy = f'--gtest_output=json:*) cp {listing} "${{word#--gtest_output=json:}}";;'
    tests = fake(tmp_path / "bin", "cuda_tests", f"for word; do case $word in {copy} esac; done")
    body = f'echo "$@" >> {tmp_path}/asked; [ "$2" = memcheck ] || exit 9'
    tool = fake(tmp_path / "bin", "compute-sanitizer", body)
    monkeypatch.setattr(kernel_checks, "find_sanitizer", lambda: str(tool))
    kernel_checks.check_kernels(Place(None, tests, None, []), results, tmp_path)
    assert outcomes(results) == {
        "tests on the card": "passed",
        "compute-sanitizer memcheck": "passed",
        "compute-sanitizer racecheck": "FAILED",
    }
    assert "--gtest_filter=DeviceA.Works" in (tmp_path / "asked").read_text()
    monkeypatch.setattr(kernel_checks, "find_sanitizer", lambda: None)
    kernel_checks.check_kernels(Place(None, tests, None, []), results, tmp_path)
    assert results.rows[-1]["text"] == "compute-sanitizer is not on this machine"


# --- speed ---


def test_kernel_rates_stand_beside_bitsandbytes_where_it_ran(results, tmp_path, monkeypatch):
    import kernel_speed
    from place import Place

    lines = [
        {"kernel": "copy", "shape": "1 GiB", "microseconds": 900.0, "gb_per_s": 2400.0, "share_of_copy": 1.0},
        {"kernel": "dequantize_blockwise_nf4", "shape": "64x64", "microseconds": 3.0, "gb_per_s": 2000.0}
        | {"share_of_copy": 0.8333},
        {"kernel": "rope", "shape": "64x64", "microseconds": 3.0, "gb_per_s": 1200.0, "share_of_copy": 0.5},
    ]
    (tmp_path / "lines").write_text("".join(json.dumps(line) + "\n" for line in lines))
    bench = fake(tmp_path / "bin", "cuda_kernels_bench", f"cat {tmp_path}/lines")
    asked = []

    def peers(shapes, _):
        asked.append(shapes)
        return {"64x64": 1000.0}, None

    monkeypatch.setattr(kernel_speed, "peer_rates", peers)
    kernel_speed.measure_kernels(Place(None, None, bench, []), results)
    assert asked == [["64x64"]]
    assert [row["text"] for row in results.rows] == [
        "2400 GB/s",
        "2000 GB/s, 83% of the copy rate, 3 us; bitsandbytes 1000 GB/s, ours 2.00 times that",
        "1200 GB/s, 50% of the copy rate, 3 us",
    ]
    monkeypatch.setattr(kernel_speed, "peer_rates", lambda *_: ({}, "No module named 'bitsandbytes'"))
    kernel_speed.measure_kernels(Place(None, None, bench, []), results)
    assert results.rows[-1]["outcome"] == "skipped" and "bitsandbytes" in results.rows[-1]["text"]
    fake(tmp_path / "bin", "cuda_kernels_bench", "echo 'out of memory' >&2; exit 1")
    kernel_speed.measure_kernels(Place(None, None, bench, []), results)
    assert results.rows[-1]["outcome"] == "FAILED" and "out of memory" in results.rows[-1]["text"]


def test_training_figures_by_hand():
    from limits import ModelShape
    from training_speed import WARM_UP, rates, text_of

    shape = ModelShape(hidden=8, intermediate=16, layers=2, heads=2, kv_heads=1, head_dim=4, vocab=10)
    figures = rates(shape, [9.0] * WARM_UP + [0.5, 0.5, 2.0], None)
    assert figures["tokens_per_second"] == 2 * 2048 / 0.5 and "share_of_gemm" not in figures
    # Linears 4 * 1152 * 4096, head 4 * 80 * 4094, attention 3 * 2 * 8 * 2 * 2 * 2048^2, adapters of rank 16
    # 6 * 4096 * 4096.
    flops = 4 * 1152 * 4096 + 4 * 80 * 4094 + 3 * 2 * 8 * 2 * 2 * 2048**2 + 6 * 4096 * 4096
    assert figures["tflops"] == pytest.approx(flops / 0.5 / 1e12)
    share = rates(shape, [9.0] * WARM_UP + [0.5], 2 * figures["tflops"])
    assert share["share_of_gemm"] == pytest.approx(0.5)
    share |= {"peak_bytes": 12.5e9, "planned_bytes": 12e9}
    assert text_of(share) == "8192 tokens/s, 50% of the GEMM rate, peak 12.50 GB (planned 12.00 GB)"


def test_the_plan_is_read_from_the_log_and_gaps_need_courses_of_one_length():
    from process import ProcessError
    from trainer import largest_gap, planned_bytes

    log = ["template: none", "info: planned peak memory 1.15 GB: weights 0.11 GB, dense forms 0.54 GB"]
    assert planned_bytes(log) == 1.15e9 and planned_bytes(log[:1]) is None
    assert largest_gap([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    for pair in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(ProcessError):
            largest_gap(*pair)


def test_memory_of_the_card_is_its_peak_beyond_what_was_in_use(tmp_path, monkeypatch):
    import gpu

    body = 'case "$*" in *lms*) echo 150; echo 900; echo 300; sleep 60;; *) echo 100;; esac'
    fake(tmp_path, "nvidia-smi", body.replace("sleep 60", "exec sleep 60"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with gpu.MemoryWatch() as watch:
        while len(watch.lines) < 3:
            pass
    assert watch.peak == 800 * 2**20
    assert gpu.largest(["[N/A]"]) is None


def test_a_program_that_takes_too_long_is_killed_and_told_from_one_that_fails():
    from process import ProcessError, run

    with pytest.raises(ProcessError, match="took longer than 1 s"):
        run(["sleep", "60"], os.environ, limit=1)
    with pytest.raises(ProcessError, match="exit code 3"):
        run(["sh", "-c", "exit 3"], os.environ, limit=60)
    assert run(["echo", "done"], os.environ, limit=60).stdout == "done"


# --- building without CMake ---


def test_the_build_names_the_compilers_first_error(root, tmp_path, monkeypatch):
    import build

    body = 'echo "note: in file"; echo "x.cu(7): error: no such thing" >&2; exit 2'
    nvcc = fake(tmp_path / "bin", "nvcc", body)
    monkeypatch.setattr(build, "find_nvcc", lambda: str(nvcc))
    asked = tmp_path / "asked"
    monkeypatch.setenv("CXX", str(fake(tmp_path / "bin", "g++", f'echo x >> {asked}; sleep 0.2')))
    with pytest.raises(build.BuildError, match=r"x.cu\(7\): error: no such thing"):
        build.build(root, tmp_path / "out", 2, [])
    assert asked.read_text().count("x") <= 4, "the first fault ends the build"
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    with pytest.raises(build.BuildError, match="nvcc is neither on PATH"):
        build.build(root, tmp_path / "out", 2, [])


def test_the_build_compiles_and_links_every_file_of_kernels_tests_and_benchmark(root, tmp_path, monkeypatch):
    """With compilers that only note what they are asked for."""
    import build

    note = f'echo "$@" >> {tmp_path}/asked; for word; do [ "$last" = -o ] && : > "$word"; last=$word; done'
    nvcc = fake(tmp_path / "bin", "nvcc", note)
    monkeypatch.setattr(build, "find_nvcc", lambda: str(nvcc))
    monkeypatch.setenv("CXX", str(fake(tmp_path / "bin", "g++", note)))
    monkeypatch.setattr(build, "find_googletest", lambda _: tmp_path / "googletest")
    tests, bench = build.build(root, tmp_path / "out", 2, [])
    assert tests.is_file() and bench.is_file()
    asked = (tmp_path / "asked").read_text()
    sources = [*root.glob("src/kernels/cuda/*.cu"), *root.glob("src/kernels/cpu/*.cpp")]
    for source in [*sources, *root.glob("tests/kernels/device/*_test.cpp")]:
        assert f"-c {source} " in asked, source
    notes = []
    monkeypatch.setattr(build, "find_googletest", lambda _: None)
    assert build.build(root, tmp_path / "out", 2, notes) == (None, bench) and "GoogleTest" in notes[0]


# --- training ---


def test_the_training_checks_hold_with_the_cpu_as_the_card(bin_dir, results, tmp_path, monkeypatch):
    from training_checks import TrainingChecks

    monkeypatch.setattr(results, "limit", lambda most: 600)
    monkeypatch.setattr(results, "seconds_left", lambda: 600)
    TrainingChecks(bin_dir, results, tmp_path, card="cpu").run()
    found = outcomes(results)
    assert found.pop("cache on and off") in ("passed", "skipped")
    assert found == {
        "CPU and card, float32": "passed",
        "CPU and card, bfloat16": "passed",
        "resume": "passed",
        "checkpointing on and off": "passed",
    }


def test_a_training_run_that_fails_or_differs_is_a_failure(results, tmp_path, monkeypatch):
    import training_checks
    from process import ProcessError

    checks = training_checks.TrainingChecks(tmp_path, results, tmp_path)
    courses = iter([[2.0, 1.0], [2.0, 1.001], [2.0, 1.0], [2.0, 1.001]])
    monkeypatch.setattr(checks, "losses", lambda *_, **__: next(courses))
    checks.check("fp32", 1, lambda: checks.devices_agree("float32"))
    checks.check("same", 1, lambda: checks.changes_nothing("same", ({}, ()), ({}, ())))

    def broken():
        raise ProcessError("exit code 4: out of memory")

    checks.check("broken", 1, broken)
    assert outcomes(results) == {"fp32": "FAILED", "same": "FAILED", "broken": "FAILED"}
    assert "1.0e-03 (bound 1e-04)" in results.rows[0]["text"]
