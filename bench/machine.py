"""Where and with what the figures were made."""

import json
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "trl",
    "datasets",
    "accelerate",
    "tokenizers",
)
# Variables that keep LibTorch (and our kernels), oneDNN and MKL to older instructions, for both sides.
KEEP_TO_OLDER = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
VERSIONS = """
import importlib.metadata as m, json, sys
found = {}
for name in sys.argv[1:]:
    try: found[name] = m.version(name)
    except m.PackageNotFoundError: found[name] = None
print(json.dumps({"python": sys.version.split()[0], **found}))
"""


def output_of(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def processor():
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def instruction_sets():
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return [
                f
                for f in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")
                if f in line.split()
            ]
    return []


def commit(root):
    head = output_of("git", "-C", root, "rev-parse", "HEAD")
    changed = output_of("git", "-C", root, "status", "--porcelain", "--untracked-files=no")
    return f"{head} with uncommitted changes" if head and changed else head or "unknown"


def cores():
    return len(os.sched_getaffinity(0))


def describe(root, python, program, jemalloc):
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor(),
        "instruction_sets": instruction_sets(),
        "kept_to": {name: os.environ[name] for name in KEEP_TO_OLDER if name in os.environ},
        "cores": cores(),
        "memory_bytes": memory,
        "system": f"{platform.system()} {platform.release()}",
        "commit": commit(root),
        "program": output_of(program, "--version"),
        "versions": json.loads(output_of(python, "-c", VERSIONS, *PACKAGES) or "{}"),
        "jemalloc": str(jemalloc) if jemalloc else None,
    }
