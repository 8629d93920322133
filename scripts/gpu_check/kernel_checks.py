"""Every kernel test on the card, and the shorter ones under compute-sanitizer."""

import json
import os
import shutil
from pathlib import Path

from process import ProcessError, run
from results import FAILED, PASSED, SKIPPED

PART = "kernels"
TOOLS = ("memcheck", "racecheck")
SHORT_SECONDS = 0.05  # the sanitizer makes a test ten to a hundred times slower
SHORT_TOTAL = 1.5


def read_tests(file):
    """[{name, outcome, seconds, failures}] of GoogleTest's JSON."""
    tests = []
    for suite in json.loads(file.read_text(encoding="utf-8"))["testsuites"]:
        for test in suite["testsuite"]:
            outcome = FAILED if test.get("failures") else PASSED
            if test["result"] == "SKIPPED":
                outcome = SKIPPED
            tests.append(
                {
                    "name": f"{suite['name']}.{test['name']}",
                    "outcome": outcome,
                    "seconds": float(test["time"].rstrip("s")),
                    "failures": [failure["failure"] for failure in test.get("failures", [])],
                }
            )
    return tests


def judge(results, tests, fault):
    """Rows for a run of the tests; `fault` is how the program ended when it did not end well."""
    found = [test["outcome"] for test in tests]
    counts = {outcome: found.count(outcome) for outcome in (PASSED, FAILED, SKIPPED)}
    text = f"{counts[PASSED]} passed, {counts[FAILED]} failed, {counts[SKIPPED]} skipped"
    # A test that found no device, or none at all, proves nothing.
    good = not fault and counts[FAILED] == 0 and counts[SKIPPED] == 0 and counts[PASSED] > 0
    if fault and not counts[FAILED]:
        text += f"; {fault}"
    results.add(PART, "tests on the card", PASSED if good else FAILED, text, tests=tests)
    for test in tests:
        if test["outcome"] == FAILED:
            first = test["failures"][0].strip().splitlines()
            results.add(PART, test["name"], FAILED, " ".join(line.strip() for line in first[:4])[:200])


def short_tests(tests):
    """The quickest ones: as many as fit in a time that a sanitizer can stretch."""
    chosen, total = [], 0.0
    for test in sorted(tests, key=lambda test: test["seconds"]):
        fits = test["seconds"] <= SHORT_SECONDS and total + test["seconds"] <= SHORT_TOTAL
        if test["outcome"] == PASSED and fits:
            chosen.append(test["name"])
            total += test["seconds"]
    return chosen


def find_sanitizer():
    places = ["/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", os.environ.get("PATH", "")]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def check_kernels(place, results, work):
    if place.tests is None:
        results.add(PART, "tests on the card", SKIPPED, "; ".join(place.notes))
        return
    file, fault = work / "cuda_tests.json", None
    file.unlink(missing_ok=True)
    try:
        command = [place.tests, f"--gtest_output=json:{file}", "--gtest_brief=1"]
        run(command, os.environ, limit=results.limit(120))
    except ProcessError as error:
        fault = str(error)
    tests = read_tests(file) if file.is_file() else []
    judge(results, tests, fault)
    sanitizer, chosen = find_sanitizer(), short_tests(tests)
    if not sanitizer:
        results.add(PART, "compute-sanitizer", SKIPPED, "compute-sanitizer is not on this machine")
        return
    if not chosen:
        results.add(PART, "compute-sanitizer", SKIPPED, "no test is short enough")
        return
    for tool in TOOLS:
        if results.has_time(PART, f"compute-sanitizer {tool}", 60):
            sanitize(sanitizer, tool, place.tests, chosen, results)


def sanitize(sanitizer, tool, tests: Path, chosen, results):
    name = f"compute-sanitizer {tool}"
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--print-limit", "3"]
    command += [tests, "--gtest_brief=1", f"--gtest_filter={':'.join(chosen)}"]
    try:
        run(command, os.environ, limit=results.limit(60))
    except ProcessError as error:
        outcome = SKIPPED if "took longer" in str(error) else FAILED
        results.add(PART, name, outcome, f"{len(chosen)} tests: {error}")
        return
    results.add(PART, name, PASSED, f"{len(chosen)} tests without a fault")
