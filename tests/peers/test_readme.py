"""The README's generated tables are those of the code, and every file and command that it names exists."""

import re
import subprocess
import sys


def test_the_configuration_tables_are_current(root, bin_dir):
    run = subprocess.run([sys.executable, root / "scripts" / "update_readme.py", "--check", "--bin", bin_dir],
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_every_path_that_the_readme_names_exists(root):
    text = (root / "README.md").read_text()
    paths = re.findall(r"`((?:scripts|configs|data|tests|src|include)/[\w./-]+)`", text)
    assert len(paths) > 10
    missing = [path for path in paths if not (root / path).exists()]
    assert not missing


def test_every_flag_that_the_readme_names_is_a_flag(root, bin_dir):
    text = (root / "README.md").read_text()
    for program in ("qlora-train", "qlora-eval", "qlora-merge", "qlora-quantize"):
        described = subprocess.run([bin_dir / program, "--help"], capture_output=True, text=True, check=True).stdout
        for line in text.splitlines():
            if re.match(rf"\s*(?:\$ )?(?:build/release/bin/)?{program} ", line):
                for flag in re.findall(r"(?<=\s)--[\w-]+", line):
                    assert flag in described, f"{program}: {flag}"
