#!/usr/bin/env python3
"""Says which packages of the Python environment that runs it are missing or damaged.

Every file that an installed package lists is looked up and its size compared, so that an installation that
was cut off is found. Prints `damaged PATH` (the package's metadata folder) and `missing REQUIREMENT` lines;
none when all is well. scripts/setup.sh runs it with the environment's own interpreter.
"""

import argparse
import csv
import os
import sys
import sysconfig
from importlib.metadata import PathDistribution
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name


def pins(path):
    """The requirements of a file; `-r` lines are followed."""
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            yield from pins(path.parent / line[3:].strip())
        elif line:
            yield Requirement(line)


def is_damaged(info):
    """True when the package's list of files is missing, or a listed file is absent or has another size."""
    try:
        with open(info / "RECORD", newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except OSError:
        return True
    for path, _, size in rows:
        if path.endswith(".pyc"):
            continue
        try:
            found = os.stat(info.parent / path).st_size
        except OSError:
            return True
        if size and found != int(size):
            return True
    return not rows


def unmet(requirements, installed, follow, seen):
    """Requirements that no whole package meets; with `follow` those among the packages' own needs too."""
    for requirement in requirements:
        name, extras = canonicalize_name(requirement.name), requirement.extras or {""}
        if (name, frozenset(extras)) in seen:
            continue
        seen.add((name, frozenset(extras)))
        package = installed.get(name)
        if package is None or not requirement.specifier.contains(package.version, prereleases=True):
            yield requirement
        elif follow:
            needs = (Requirement(text) for text in package.requires or ())
            yield from unmet(
                [
                    need
                    for need in needs
                    if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras)
                ],
                installed,
                follow,
                seen,
            )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "requirements", type=Path, nargs="*", help="files whose packages must be there, with their needs"
    )
    parser.add_argument(
        "--bare",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a file whose packages must be there, whatever they need",
    )
    arguments = parser.parse_args()
    site = Path(sysconfig.get_path("purelib"))
    damaged = [info for info in sorted(site.glob("*.dist-info")) if is_damaged(info)]
    whole = (PathDistribution(info) for info in site.glob("*.dist-info") if info not in damaged)
    installed = {canonicalize_name(package.metadata["Name"]): package for package in whole}
    wanted = [pin for path in arguments.requirements for pin in pins(path)]
    missing = list(unmet((pin for path in arguments.bare for pin in pins(path)), installed, False, set()))
    missing += unmet(wanted, installed, True, set())
    for info in damaged:
        print("damaged", info)
    for requirement in dict.fromkeys(str(requirement) for requirement in missing):
        print("missing", requirement)
    return 1 if damaged or missing else 0


if __name__ == "__main__":
    sys.exit(main())
