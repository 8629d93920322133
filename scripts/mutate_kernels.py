#!/usr/bin/env python3
"""Checks that the tests of the CUDA kernels notice faults: breaks one thing of src/kernels/cuda at a time, rebuilds
the emulated tests and demands that one fails.

Each barrier is removed; each condition (of an if or a ternary, or stored) is taken as true and as false and loses each of
its operands; each comparison in a condition or a loop is moved by one. A mutant is tried against the plain build, then against
the race checker's, then under AddressSanitizer and UBSan. Mutants that change nothing anybody could observe are
listed with their reasons in scripts/equivalent_mutants.json; a list entry that matches no mutant, or whose mutant a
test catches, is a fault.

Works on a copy in build/mutants; the tree itself is not touched. Prints the counts and exits 1 when a mutant
survives. About half an hour on two cores.
"""

import argparse
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = Path(__file__).resolve().with_name("equivalent_mutants.json")
KERNELS = "src/kernels/cuda"
TESTS = ROOT / "tests" / "kernels" / "device"
COPIED = ("CMakeLists.txt", "cmake", "include", "src", "tests")
CPU_LIMIT = 60  # seconds of processor time: a mutant's loop may never end, however busy the machine is


NEVER_ENDS = ", which never ends"


class Mutant(NamedTuple):
    file: str
    line: int
    begin: int
    end: int
    replacement: str
    change: str  # what is done, in words
    source: str  # the line as written, with the next one where that is inside of it

    def key(self):
        return (self.file, self.source, self.change)

    def __str__(self):
        return f"{self.file}:{self.line}: {self.change}\n    {self.source}"


def blanked(text):
    """The text with comments, strings and what only nvcc compiles blanked out, so that positions stay."""

    def blank(match):
        return re.sub(r"[^\n]", " ", match[0])

    text = re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.S)
    return re.sub(r"#if defined\(__CUDA(?:CC|_ARCH)__\).*?#(?:else|endif)", blank, text, flags=re.S)


def closing(text, opening):
    """The place of the parenthesis that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError("a parenthesis that is never closed")


def split(text, begin, end, separators):
    """Ranges of [begin, end) between separators that stand outside of any bracket."""
    ranges, depth, start, place = [], 0, begin, begin
    while place < end:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(text[place], 0)
        found = next((s for s in separators if depth == 0 and text.startswith(s, place)), None)
        if found:
            ranges.append((start, place))
            place += len(found)
            start = place
        else:
            place += 1
    return [*ranges, (start, end)]


def trimmed(text, begin, end):
    while begin < end and text[begin].isspace():
        begin += 1
    while end > begin and text[end - 1].isspace():
        end -= 1
    return begin, end


def expression_begin(text, place):
    """Where the expression begins that goes on at `place`."""
    depth = 0
    for at in range(place - 1, -1, -1):
        character = text[at]
        depth += {")": 1, "]": 1, "(": -1, "[": -1}.get(character, 0)
        if depth < 0 or character in ";{}?":
            return at + 1
        is_assignment = character == "=" and text[at - 1] not in "=<>!" and text[at + 1] != "="
        if depth == 0 and (is_assignment or character == ","):
            return at + 1
        if depth == 0 and text.startswith("return", at):
            return at + len("return")
    return 0


def expression_end(text, place):
    """Where it ends, a ternary's condition before the question mark."""
    depth = 0
    for at in range(place, len(text)):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text[at], 0)
        if depth < 0 or text[at] in ";{}?" or (depth == 0 and text[at] == ","):
            return at
    return len(text)


class Condition(NamedTuple):
    begin: int
    end: int
    is_loop: bool


def conditions(text):
    for match in re.finditer(r"\b(if|while|for)\s*\(", text):
        opening = match.end() - 1
        begin, end = opening + 1, closing(text, opening)
        parts = split(text, begin, end, [";"])
        if match[1] == "for":
            if len(parts) == 3:
                yield Condition(*trimmed(text, *parts[1]), True)
        else:
            yield Condition(*trimmed(text, *parts[-1]), match[1] == "while")
    for match in re.finditer(r"\?", text):
        yield Condition(*trimmed(text, expression_begin(text, match.start()), match.start()), False)
    # A condition that is stored or passed on.
    for match in re.finditer(r"&&|\|\|", text):
        begin, end = expression_begin(text, match.start()), expression_end(text, match.end())
        yield Condition(*trimmed(text, begin, end), False)


def mutants_of(path):
    name, text = path.name, path.read_text(encoding="utf-8")
    code = blanked(text)
    lines = text.splitlines()
    found = {}

    def add(begin, end, replacement, change):
        line = code.count("\n", 0, begin) + 1
        source = lines[line - 1].strip()
        if source.endswith("{"):
            source += " " + lines[line].strip()
        mutant = Mutant(name, line, begin, end, replacement, change, source)
        found.setdefault((begin, end, replacement), mutant)

    def words(begin, end):
        return " ".join(text[begin:end].split())

    for match in re.finditer(r"\b(__syncthreads|__syncwarp)\s*\([^()]*\);", code):
        add(match.start(), match.end(), ";", f"without {match[1]}")
    for condition in conditions(code):
        whole = words(condition.begin, condition.end)
        if not condition.is_loop:
            for value in ("true", "false"):
                add(condition.begin, condition.end, value, f"`{whole}` is {value}")
        operands = [(condition.begin, condition.end)]
        for separator, neutral in (("&&", "true"), ("||", "false")):
            parts = split(code, condition.begin, condition.end, [separator])
            if len(parts) == 1:
                continue
            operands = [trimmed(code, *part) for part in parts]
            for begin, end in operands:
                add(begin, end, neutral, f"`{words(begin, end)}` is {neutral}")
        for begin, end in operands:
            for match in re.finditer(r" (<=|>=|<|>) ", code[begin:end]):
                operator = match[1]
                moved = operator[0] if len(operator) == 2 else operator + "="
                place = begin + match.start(1)
                add(place, place + len(operator), moved, f"`{operator}` of `{words(begin, end)}` is `{moved}`")
    return list(found.values())


def suites_of(name):
    """Filters for the tests that cover a kernel file: those of its name first, then those of all kernels."""
    every = [*sorted(TESTS.glob("*_test.cpp")), ROOT / "tests" / "emulation" / "launch_test.cpp"]
    own = [file for file in every if name.endswith(".cu") and file.name.startswith(Path(name).stem)]
    return [suites_in(files) for files in (own, every) if files]


def suites_in(files):
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    suites = re.findall(r"^TEST(?:_F|_P)?\((\w+),", text, flags=re.M)
    return ":".join(f"*{suite}.*" for suite in dict.fromkeys(suites))


class Builds:
    """The copied tree and its builds, from the fastest to the slowest."""

    def __init__(self, folder, jobs):
        self.tree, self.jobs = folder / "tree", jobs
        self.programs = (
            (folder / "plain", [], "emulation_tests", "plain"),
            (folder / "plain", [], "emulation_race_tests", "race checker"),
            (folder / "asan", ["-DQLORA_SANITIZE=ON"], "emulation_tests", "sanitizers"),
        )
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir(parents=True)
        for name in COPIED:  # with new dates: what an earlier run built of a mutant is older
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.tree / name, copy_function=shutil.copy)
            else:
                shutil.copy(ROOT / name, self.tree / name)
        for build, options, _, _ in self.programs:
            command = ["cmake", "-G", "Ninja", "-S", self.tree, "-B", build, "-DCMAKE_BUILD_TYPE=None"]
            command += ["-DCMAKE_CXX_FLAGS=-O1 -g1", "-DQLORA_WITH_TORCH=OFF", "-DQLORA_TESTS=ON", *options]
            self.run(command, check=True)

    @staticmethod
    def run(command, check=False, limit=None):
        """The exit status; -SIGXCPU when the limit of processor seconds was reached."""

        def confine():
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))

        result = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            errors="replace",
            preexec_fn=confine if limit else None,
        )
        if check and result.returncode != 0:
            sys.exit(f"mutate_kernels: {' '.join(map(str, command))} failed:\n{result.stdout}{result.stderr}")
        return result.returncode

    def write(self, name, text):
        (self.tree / KERNELS / name).write_text(text, encoding="utf-8")

    def noticed_by(self, suites):
        """The first build whose tests notice the tree as it is; None when none does."""
        built = set()
        for each in suites:
            for build, _, program, name in self.programs:
                if (build, program) not in built:
                    if self.run(["cmake", "--build", build, "--target", program, "-j", self.jobs]) != 0:
                        return "compiler"
                    built.add((build, program))
                command = [build / "bin" / program, f"--gtest_filter={each}", "--gtest_fail_fast", "--gtest_brief=1"]
                status = self.run(command, limit=CPU_LIMIT)
                if status == -signal.SIGXCPU:
                    return name + NEVER_ENDS
                if status != 0:
                    return name
        return None


def without_line(mutant):
    """A mutant's words without its line, which other edits move."""
    return re.sub(r":\d+:", ":", mutant, count=1)


def read_equivalent(mutants):
    """{key: reason}; ends the program when an entry has no reason or matches nothing."""
    entries = json.loads(EQUIVALENT.read_text(encoding="utf-8"))
    known = {mutant.key() for mutant in mutants}
    for entry in entries:
        if (entry["file"], entry["source"], entry["change"]) not in known:
            sys.exit(f"mutate_kernels: {EQUIVALENT.name} lists a mutant that does not exist: {entry}")
        if not entry["reason"]:
            sys.exit(f"mutate_kernels: {EQUIVALENT.name} gives no reason: {entry}")
    return {(entry["file"], entry["source"], entry["change"]): entry["reason"] for entry in entries}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--only", metavar="TEXT", default="", help="only files or changes that contain it")
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="only those that survive in FILE, what an earlier run printed"
    )
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="not the first N: an earlier run tried them")
    parser.add_argument("--jobs", default="2", help="compilers at once (default 2)")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "mutants", help="where to work")
    arguments = parser.parse_args()

    paths = sorted((ROOT / KERNELS).glob("*.cu*"))
    mutants = [mutant for path in paths for mutant in mutants_of(path)]
    equivalent = read_equivalent(mutants)
    mutants = [mutant for mutant in mutants if arguments.only in f"{mutant.file} {mutant.change}"]
    if arguments.again:
        text = arguments.again.read_text(encoding="utf-8")
        survivors = [without_line(m) for m in re.findall(r"^\[\d+/\d+\] SURVIVES: (.*\n.*)$", text, re.M)]
        mutants = [m for m in mutants if any(without_line(str(m)).startswith(s) for s in survivors)]
    mutants = mutants[arguments.skip :]
    if arguments.list:
        for mutant in mutants:
            print(f"{mutant}{'  (equivalent)' if mutant.key() in equivalent else ''}")
        print(f"{len(mutants)} mutants")
        return 0

    builds = Builds(arguments.folder, arguments.jobs)
    if noticed := builds.noticed_by(suites_of("")):
        sys.exit(f"mutate_kernels: the tests fail without any mutant ({noticed})")
    originals = {path.name: path.read_text(encoding="utf-8") for path in paths}
    started, caught, failures = time.monotonic(), {}, []
    for number, mutant in enumerate(mutants, 1):
        original = originals[mutant.file]
        builds.write(mutant.file, original[: mutant.begin] + mutant.replacement + original[mutant.end :])
        noticed = builds.noticed_by(suites_of(mutant.file))
        builds.write(mutant.file, original)
        listed = mutant.key() in equivalent
        if listed and noticed and noticed.endswith(NEVER_ENDS):
            noticed = None  # one that only costs time may cost too much of it
        outcome = f"caught by {noticed}" if noticed else "equivalent" if listed else "SURVIVES"
        if noticed and listed:
            outcome = f"listed as equivalent, yet {outcome}"
        caught[noticed or outcome] = caught.get(noticed or outcome, 0) + 1
        if bool(noticed) == listed:
            failures.append(f"{mutant}\n    {outcome}")
        print(f"[{number}/{len(mutants)}] {outcome}: {mutant}", flush=True)

    print(f"\n{len(mutants)} mutants in {time.monotonic() - started:.0f} s:")
    for name, count in sorted(caught.items(), key=lambda item: -item[1]):
        print(f"{count:5d}  {name}")
    for failure in failures:
        print(f"\n{failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
