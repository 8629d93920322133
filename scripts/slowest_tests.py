#!/usr/bin/env python3
"""Prints the slowest tests of JUnit XML files, as ctest and pytest write them.

    scripts/slowest_tests.py 10 build/*.xml
"""

import sys
import xml.etree.ElementTree as xml
from pathlib import Path


def tests_of(file):
    """(seconds, name) of each test; the file's name says which part of the run it belongs to."""
    for case in xml.parse(file).iter("testcase"):
        place = case.get("classname", "")
        # ctest repeats the test's name there.
        name = case.get("name") if place in ("", case.get("name")) else f"{place}::{case.get('name')}"
        yield float(case.get("time") or 0), f"{Path(file).stem}: {name}"


def slowest(count, files):
    return sorted((test for file in files for test in tests_of(file)), reverse=True)[:count]


if __name__ == "__main__":
    for seconds, name in slowest(int(sys.argv[1]), sys.argv[2:]):
        print(f"{seconds:8.1f} s  {name}")
