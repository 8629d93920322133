"""The README's generated tables are those of the code, and every file and command that README and docs name exists."""

import re
import subprocess
import sys

import pytest


def test_the_configuration_tables_are_current(root, bin_dir):
    run = subprocess.run([sys.executable, root / "scripts" / "update_readme.py", "--check", "--bin", bin_dir],
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/performance.md"])
def test_every_path_that_a_text_names_exists(root, name):
    text = (root / name).read_text()
    paths = re.findall(r"`((?:scripts|configs|data|docs|tests|bench|src|include)/[\w./-]+)`", text)
    assert len(paths) > 5
    assert not [path for path in paths if not (root / path).exists()]
    # Headers as they are included, and sources, are named below their folder.
    files = re.findall(r"`([a-z_]+/[\w/]+\.(?:h|cpp|cuh?))`", text)
    folders = [root, root / "include/qlora", root / "src"]
    assert not [file for file in files if not any((folder / file).exists() for folder in folders)]


def test_every_flag_that_the_readme_names_is_a_flag(root, bin_dir):
    text = (root / "README.md").read_text()
    for program in ("qlora-train", "qlora-eval", "qlora-merge", "qlora-quantize"):
        described = subprocess.run([bin_dir / program, "--help"], capture_output=True, text=True, check=True).stdout
        for line in text.splitlines():
            if re.match(rf"\s*(?:\$ )?(?:build/release/bin/)?{program} ", line):
                for flag in re.findall(r"(?<=\s)--[\w-]+", line):
                    assert flag in described, f"{program}: {flag}"
