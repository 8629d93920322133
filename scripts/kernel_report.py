#!/usr/bin/env python3
"""Prints registers, stack, spills and shared memory of every kernel of src/kernels/cuda, and how wide its
accesses to global memory are, for each architecture that the plug-in is built for.

    scripts/kernel_report.py                     all architectures: some minutes
    scripts/kernel_report.py --arch sm_90        one of them
    scripts/kernel_report.py --only matvec       files whose name contains it
    scripts/kernel_report.py --arch sm_90 --build build/cuda-one     seconds, where that is built for sm_90 alone:
                                                 what its compiler said, without the accesses

Needs nvcc. Accesses are read from the machine code when nvdisasm is found (the PyPI package
nvidia-cuda-nvdisasm of this Python, the toolkit, or PATH), else from PTX. `16x8 4` means eight accesses of 16
bytes and one of 4 in the code, not how often they run. A spill is explained in explained_spills.json beside
this, with the bytes it may have, or it is a fault; so is an explanation of a spill that is not there any more.
Exits 1 when there is a fault.
"""

import argparse
import collections
import concurrent.futures
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
EXPLAINED = Path(__file__).resolve().with_name("explained_spills.json")
KERNELS = ROOT / "src" / "kernels" / "cuda"
SASS_ACCESSES = {"LDG", "LDGSTS", "LD", "STG", "ST", "ATOMG", "ATOM", "REDG", "RED"}
SASS_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}


class Usage(NamedTuple):
    """What ptxas says about one kernel, or one function that was not inlined."""

    registers: int | None  # None for a function
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int  # static, bytes


class Row(NamedTuple):
    file: str
    kernel: str
    arch: str
    usage: Usage
    loads: collections.Counter | None  # bytes of an access -> how many; None: not read
    stores: collections.Counter | None

    def spilled(self):
        return self.usage.spill_stores + self.usage.spill_loads


class ReportError(Exception):
    pass


# --- what the compiler says ---


def parse_usage(log):
    """{mangled name: Usage} of nvcc -Xptxas -v."""
    found, name = {}, None
    for line in log.splitlines():
        if match := re.search(r"Function properties for (\S+)", line):
            name = match[1]
        elif match := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            found[name] = Usage(None, *map(int, match.groups()), 0)
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            found[name] = found[name]._replace(
                registers=int(match[1]), shared=int(shared[1]) if shared else 0
            )
    return found


def add_access(accesses, name, is_load, size):
    accesses.setdefault(name, (collections.Counter(), collections.Counter()))[0 if is_load else 1][size] += 1


def parse_ptx(text):
    """{mangled name: (loads, stores)} of global memory; an atomic operation counts as a store. An instruction
    without an address space may reach any, and counts."""
    found, name = {}, None
    for line in text.splitlines():
        if match := re.match(r"\s*(?:\.visible |\.weak )*\.(?:entry|func)\b.*?([\w$]+)\s*\(", line):
            name = match[1]
            continue
        match = re.match(r"\s*(?:@!?%\w+\s+)?(ld|st|atom|red)((?:\.[\w:]+)+)\s", line)
        if not match or name is None:
            continue
        words = match[2].split(".")
        if {"param", "shared", "local", "const"} & {word.partition("::")[0] for word in words}:
            continue
        bits = re.fullmatch(r"[usbf]+(\d+)(?:x2)?", words[-1])
        if not bits:
            raise ReportError(f"a PTX access of unknown width: {line.strip()}")
        pair = 2 if words[-1].endswith("x2") else 1
        lanes = next((int(word[1:]) for word in words if re.fullmatch(r"v[248]", word)), 1)
        add_access(found, name, match[1] == "ld", lanes * pair * int(bits[1]) // 8)
    return found


def parse_sass(text):
    """The same of `nvdisasm -c`, whose sections are named after the functions."""
    found, name = {}, None
    for line in text.splitlines():
        if match := re.match(r"\s*\.section\s+\.text\.([\w$]+)", line):
            name = match[1]
            continue
        match = re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z]+)((?:\.\w+)*)\s", line)
        if not match or name is None or match[1] not in SASS_ACCESSES:
            continue
        sizes = [SASS_BYTES[word] for word in match[2].split(".") if word in SASS_BYTES]
        add_access(found, name, match[1].startswith("LD"), max(sizes, default=4))
    return found


def demangled(names):
    """{mangled: readable}; the names as they are where there is no c++filt."""
    if not names or not shutil.which("c++filt"):
        return {name: name for name in names}
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.splitlines(), strict=True))


def short_name(readable):
    """`void a::b::multiply<a::F32, 8>(int, float)` -> `multiply<F32, 8>`"""
    text = readable.replace("(anonymous namespace)::", "")
    text = re.sub(r"\(([\w: ]+)\)(-?\d+)", r"\2", text)  # (int)8 of a template argument
    depth, end = 0, len(text)
    for place, character in enumerate(text):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0:
            end = place
            break
    text = re.sub(r"\w+::", "", text[:end]).replace(" >", ">").replace(" ,", ",")
    name, opening, arguments = text.partition("<")
    return name.rpartition(" ")[2] + opening + arguments  # without the type it returns


# --- compiling ---


def build_settings():
    """(architectures, flags) that CMake builds the plug-in with."""
    top = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    below = (ROOT / "src" / "CMakeLists.txt").read_text(encoding="utf-8")
    listed = re.search(r'set\(QLORA_CUDA_ARCHITECTURES "([^"]+)"', top)
    flags = re.search(r"target_compile_options\(qlora_cuda_objects PRIVATE ([^)]+)\)", below)
    if not listed or not flags:
        raise ReportError("CMakeLists.txt does not tell the architectures or the flags of qlora_cuda_objects")
    return [f"sm_{arch.partition('-')[0]}" for arch in listed[1].split(";")], flags[1].split()


def find_nvdisasm():
    package = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    for folder in [*sorted(package.glob("*/bin")), Path("/usr/local/cuda/bin")]:
        if (folder / "nvdisasm").is_file():
            return folder / "nvdisasm"
    return shutil.which("nvdisasm")


def find_nvcc():
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def run(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise ReportError(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done


def compile_file(tools, flags, source, arch):
    """Rows of one source file for one architecture."""
    nvcc, nvdisasm = tools
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        command = [nvcc, "-cubin", f"-arch={arch}", "-O3", *flags, f"-I{ROOT / 'include'}", "-Xptxas", "-v"]
        log = run([*command, "-keep", "-keep-dir", folder, "-o", cubin, source])
        usage = parse_usage(log.stdout + log.stderr)
        if nvdisasm:
            accesses = parse_sass(run([nvdisasm, "-c", cubin]).stdout)
        else:
            accesses = parse_ptx(next(Path(folder).glob("*.ptx")).read_text(encoding="utf-8"))
    none = (collections.Counter(), collections.Counter())
    return rows_of(source, arch, usage, lambda name: accesses.get(name, none))


def rows_of(source, arch, usage, accesses):
    names = demangled(list(usage))
    rows = [
        Row(source.name, short_name(names[name]), arch, facts, *accesses(name))
        for name, facts in usage.items()
    ]
    return sorted(rows, key=lambda row: row.kernel)


def built_rows(build, source, arch):
    """The same from the log that the build kept (scripts/keep_ptxas_log.sh), without accesses; None where it is
    missing, older than the source or a kernel header, or of other architectures too."""
    headers = [*KERNELS.glob("*.cuh"), *(ROOT / "include" / "qlora" / "kernels").glob("*.h")]
    newest = max(file.stat().st_mtime for file in [source, *headers])
    log = build / f"src/CMakeFiles/qlora_cuda_objects.dir/kernels/cuda/{source.name}.o.ptxas"
    if not log.is_file() or log.stat().st_mtime < newest:
        return None
    text = log.read_text(encoding="utf-8")
    has_kernels = "__global__" in source.read_text(encoding="utf-8")
    if set(re.findall(r"for '(sm_\w+)'", text)) != ({arch} if has_kernels else set()):
        return None
    return rows_of(source, arch, parse_usage(text), lambda name: (None, None))


# --- the report ---


def widths(counter):
    """`16x8 4` for eight accesses of 16 bytes and one of 4."""
    if counter is None:
        return "not read"
    order = sorted(counter.items(), reverse=True)
    return " ".join(f"{size}x{count}" if count > 1 else str(size) for size, count in order) or "-"


def table(rows):
    lines = [("kernel", "arch", "registers", "stack", "spill st/ld", "shared", "global loads", "stores")]
    file = None
    for row in rows:
        if row.file != file:
            file = row.file
            lines.append((f"-- {file}", *[""] * 7))
        use = row.usage
        spills = f"{use.spill_stores}/{use.spill_loads}" if row.spilled() else "-"
        registers = "function" if use.registers is None else str(use.registers)
        facts = (registers, str(use.stack), spills, str(use.shared))
        lines.append((row.kernel, row.arch, *facts, widths(row.loads), widths(row.stores)))
    size = [max(len(line[column]) for line in lines) for column in range(8)]
    return "\n".join("  ".join(word.ljust(n) for word, n in zip(line, size)).rstrip() for line in lines)


def faults(rows, explained):
    """Spills that nobody explained or that grew, and explanations that nothing needs."""
    found = []
    spilling = {(row.file, row.kernel, row.arch): row for row in rows if row.spilled()}
    known = {}
    for entry in explained:
        if not entry["reason"]:
            found.append(f"{EXPLAINED.name} gives no reason: {entry}")
        for arch in entry["archs"]:
            known[(entry["file"], entry["kernel"], arch)] = entry
    for key, row in spilling.items():
        where = f"{row.file}: {row.kernel} on {row.arch} spills {row.spilled()} bytes (stores and loads)"
        if key not in known:
            found.append(where)
        elif row.spilled() > known[key]["bytes"]:
            found.append(f"{where}, {known[key]['bytes']} are explained")
    compiled = {(row.file, row.arch) for row in rows}
    for key in known:
        if (key[0], key[2]) in compiled and key not in spilling:
            found.append(f"{EXPLAINED.name} explains a spill that is not there: {', '.join(key)}")
    return found


def as_json(rows):
    return [
        {"file": row.file, "kernel": row.kernel, "arch": row.arch, **row.usage._asdict()}
        | {"global_loads": row.loads, "global_stores": row.stores}
        for row in rows
    ]


def parse_arguments(architectures):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", action="append", help=f"default: {', '.join(architectures)}")
    parser.add_argument("--only", metavar="TEXT", default="", help="only files whose name contains it")
    parser.add_argument("--build", type=Path, metavar="DIR", help="a build with QLORA_CUDA whose logs are read")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at once (default 2)")
    parser.add_argument("--ptx", action="store_true", help="accesses from PTX even where there is nvdisasm")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    return parser.parse_args()


def main():
    architectures, flags = build_settings()
    arguments = parse_arguments(architectures)
    nvcc, nvdisasm = find_nvcc(), None if arguments.ptx else find_nvdisasm()
    sources = sorted(path for path in KERNELS.glob("*.cu") if arguments.only in path.name)
    asked = arguments.arch or architectures
    work = [(source, arch) for source in sources for arch in asked]
    built = [arguments.build and built_rows(arguments.build, *item) for item in work]
    rows = [row for found in built if found for row in found]
    work = [item for item, found in zip(work, built) if found is None]
    if work and not nvcc:
        print("kernel_report: nvcc is neither on PATH nor in /usr/local/cuda/bin", file=sys.stderr)
        return 2
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = [pool.submit(compile_file, (nvcc, nvdisasm), flags, *item) for item in work]
        rows += [row for job in jobs for row in job.result()]
    # Each kernel's architectures together, in the order in which they were asked for.
    rows.sort(key=lambda row: (row.file, row.kernel, asked.index(row.arch)))
    print(table(rows))
    print(f"\n{len(rows)} rows; accesses from {'machine code' if nvdisasm else 'PTX'}", end="")
    print(f"; {len(built) - len(work)} files from the build, {len(work)} compiled" if arguments.build else "")
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(rows), indent=1) + "\n", encoding="utf-8")
    found = faults(rows, json.loads(EXPLAINED.read_text(encoding="utf-8")))
    for fault in found:
        print(f"kernel_report: {fault}")
    return 1 if found else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ReportError as error:
        print(f"kernel_report: {error}", file=sys.stderr)
        sys.exit(2)
