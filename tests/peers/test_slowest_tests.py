"""scripts/slowest_tests.py on what ctest and pytest write, and the number of workers that scripts/test.sh takes."""

import os
import re
import subprocess

from slowest_tests import slowest

CTEST = """<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="(empty)" tests="2"><testcase name="io" classname="io" time="2.5" status="run"/>
<testcase name="ops" classname="ops" time="0.25" status="run"/></testsuite>"""
PYTEST = """<testsuites><testsuite name="pytest"><testcase classname="tests.peers.test_eval" name="test_a[x]" time="3.125"/>
<testcase classname="tests.peers.test_eval" name="test_b" time="1.5"/></testsuite></testsuites>"""


def test_the_slowest_of_all_files_come_first(tmp_path):
    (tmp_path / "release.xml").write_text(CTEST)
    (tmp_path / "peers.xml").write_text(PYTEST)
    assert slowest(3, [tmp_path / "release.xml", tmp_path / "peers.xml"]) == [
        (3.125, "peers: tests.peers.test_eval::test_a[x]"),
        (2.5, "release: io"),
        (1.5, "peers: tests.peers.test_eval::test_b"),
    ]


def test_the_workers_are_the_cores_whatever_the_threads_of_a_program(root):
    """nproc obeys OMP_NUM_THREADS, which is 1 for every program under test."""
    assignment = re.search(r"^workers=.*$", (root / "scripts" / "test.sh").read_text(), flags=re.M)[0]
    done = subprocess.run(["bash", "-c", f"{assignment}; echo $workers"], env=os.environ | {"OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(os.sched_getaffinity(0))
