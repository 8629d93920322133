#!/usr/bin/env python3
"""Checks the #include lines of include/qlora and src against the layers of the project.

A module includes only lower layers; modules of one layer never include each other; no file includes itself
by way of others; torch headers stay in the modules made for them, and the files below are torch-free whatever
they include.
Prints `file:line: fault` and exits 1 when there is one.
"""

import argparse
import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

# From the bottom up; a module may include the layers before its own.
LAYERS = (
    ("core",),
    ("kernels",),
    ("ops", "io", "tokenizer", "jinja"),
    ("quant",),
    ("nn",),
    ("models",),
    ("adapters", "data"),
    ("eval", "data_report"),
    ("train",),
    ("cli",),
)

# Modules that may include less than their layer allows.
ONLY = {"kernels": set(), "data": {"core", "kernels", "tokenizer", "jinja"}, "data_report": {"core", "data"}}

# The one header of kernels that declares compiled functions; the others are math that any layer may use.
COMPILED_KERNELS = "include/qlora/kernels/kernels.h"
MATH_ONLY = {"data", "io", "tokenizer", "jinja"}

TORCH_HEADERS = ("ATen/", "torch/", "c10/", "caffe2/")
TORCH_MODULES = {"ops", "quant", "nn", "models", "adapters", "eval", "train", "cli"}
# Files of torch modules that promise to need no torch: configuration and rules, tested under the sanitizers.
TORCH_FREE = (
    "quant/quant_config.*",
    "quant/bnb_*",
    "models/config_reader.*",
    "models/rope_config.*",
    "models/decoder_spec.*",
    "models/architectures/*",
    "adapters/*_config.*",
    "adapters/peft_types.h",
    "adapters/target_matching.*",
    "train/lr_scheduler.*",
    "train/training_config.*",
    "cli/run_config*",
)

SOURCE_SUFFIXES = {".h", ".cpp", ".cu", ".cuh", ".inc"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
LAYER_OF = {module: level for level, modules in enumerate(LAYERS) for module in modules}


class Include(NamedTuple):
    line: int
    text: str  # as written
    target: str | None  # path in the tree; None for a header of somebody else


class Tree:
    """The project's source files and what each includes; paths are relative to the root, with slashes."""

    def __init__(self, root):
        self.root = root
        paths = [
            path
            for folder in ("include/qlora", "src")
            for path in sorted((root / folder).rglob("*"))
            if path.suffix in SOURCE_SUFFIXES and path.is_file()
        ]
        self.files = {path.relative_to(root).as_posix() for path in paths}
        self.includes = {path: self.read(path) for path in sorted(self.files)}

    def read(self, path):
        lines = (self.root / path).read_text(encoding="utf-8").splitlines()
        found = ((number, INCLUDE.match(line)) for number, line in enumerate(lines, 1))
        return [
            Include(number, match[2], self.resolve(path, *match.groups())) for number, match in found if match
        ]

    def resolve(self, path, kind, text):
        folders = ["include", "src"]
        if kind == '"':
            folders.insert(0, Path(path).parent.as_posix())
        for folder in folders:
            candidate = (self.root / folder / text).resolve()
            if (
                candidate.is_relative_to(self.root)
                and candidate.relative_to(self.root).as_posix() in self.files
            ):
                return candidate.relative_to(self.root).as_posix()
        return None


def place(path):
    """Path below include/qlora or src: `module/...`."""
    return path.removeprefix("include/qlora/").removeprefix("src/")


def module_of(path):
    return place(path).partition("/")[0]


def is_torch(text):
    return text.startswith(TORCH_HEADERS)


def is_torch_free(path):
    return module_of(path) not in TORCH_MODULES or any(
        fnmatch(place(path), pattern) for pattern in TORCH_FREE
    )


def layer_fault(path, target):
    """Why `path` may not include `target`, or None."""
    module, other = module_of(path), module_of(target)
    if target.startswith("src/") and (other != module or path.startswith("include/")):
        return f"{target} is private to {other}'s sources"
    if other == module:
        return None
    if module in ONLY and other not in ONLY[module]:
        allowed = ", ".join(sorted(ONLY[module])) or "nothing of the project"
        return f"{module} may include {allowed}, not {other}"
    if target == COMPILED_KERNELS and module in MATH_ONLY:
        return f"{module} may use the kernels' header-only math, not their compiled functions"
    if LAYER_OF[other] == LAYER_OF[module]:
        return f"{module} and {other} are side by side and may not include each other"
    if LAYER_OF[other] > LAYER_OF[module]:
        return f"{module} may not include {other}, which is a higher layer"
    return None


def include_faults(tree):
    for path, includes in tree.includes.items():
        if module_of(path) not in LAYER_OF:
            yield f"{path}:1: module {module_of(path)} is not in the table of scripts/check_layers.py"
            continue
        for include in includes:
            if include.target is None:
                if include.text.startswith("qlora/"):
                    yield f"{path}:{include.line}: there is no file {include.text}"
                elif is_torch(include.text) and module_of(path) not in TORCH_MODULES:
                    fault = f"{module_of(path)} is torch-free, yet includes {include.text}"
                    yield f"{path}:{include.line}: {fault}"
            elif module_of(include.target) in LAYER_OF and (fault := layer_fault(path, include.target)):
                yield f"{path}:{include.line}: {fault} ({include.text})"


def torch_chain(tree, path):
    """The shortest way from `path` to a torch header, as [(file, Include), ...], or None."""
    ways, seen = [[(path, include)] for include in tree.includes[path]], {path}
    while ways:
        following = []
        for way in ways:
            target = way[-1][1].target
            if target is None and is_torch(way[-1][1].text):
                return way
            if target is not None and target not in seen:
                seen.add(target)
                following += [way + [(target, include)] for include in tree.includes[target]]
        ways = following
    return None


def torch_faults(tree):
    """Torch-free files that reach a torch header; what torch-free modules include directly is named above."""
    for path in tree.includes:
        if not is_torch_free(path) or not (way := torch_chain(tree, path)):
            continue
        if len(way) == 1 and module_of(path) not in TORCH_MODULES:
            continue
        steps = " -> ".join([file for file, _ in way[1:]] + [way[-1][1].text])
        yield f"{path}:{way[0][1].line}: {place(path)} is torch-free by promise, yet reaches {steps}"


def cycle_faults(tree):
    """Each include that closes a circle of files."""
    done, trail = set(), []

    def visit(path):
        trail.append(path)
        for include in tree.includes[path]:
            if include.target in trail:
                circle = trail[trail.index(include.target) :] + [include.target]
                yield f"{path}:{include.line}: includes in a circle: {' -> '.join(circle)}"
            elif include.target is not None and include.target not in done:
                yield from visit(include.target)
        trail.pop()
        done.add(path)

    for path in tree.includes:
        if path not in done:
            yield from visit(path)


def faults_of(root):
    tree = Tree(Path(root).resolve())
    return len(tree.files), [*include_faults(tree), *torch_faults(tree), *cycle_faults(tree)]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "root",
        type=Path,
        nargs="?",
        default=Path(__file__).resolve().parent.parent,
        help="project folder (default: the one of this script)",
    )
    count, faults = faults_of(parser.parse_args().root)
    if count == 0:
        faults = ["no source files were found under include/qlora and src"]
    for fault in faults:
        print(fault)
    if not faults:
        print(f"{count} files keep to the layers")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
