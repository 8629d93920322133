#!/usr/bin/env python3
"""Writes the generated parts of README.md: the configuration tables, from the declarations in the code.

    scripts/update_readme.py [--check] [--bin build/release/bin]
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- configuration: generated -->\n", "<!-- end of configuration -->\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the file is current")
    parser.add_argument("--bin", type=Path, default=ROOT / "build" / "release" / "bin")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text()
    table = subprocess.run([options.bin / "config_table"], capture_output=True, text=True, check=True).stdout
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    current = before + BEGIN + "\n" + table.strip() + "\n\n" + END + after
    if current == text:
        return 0
    if options.check:
        print("README.md: the configuration tables are not those of the code; run scripts/update_readme.py", file=sys.stderr)
        return 1
    readme.write_text(current)
    return 0


if __name__ == "__main__":
    sys.exit(main())
