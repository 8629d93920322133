#!/usr/bin/env python3
"""Measures this project against transformers + peft + bitsandbytes, and trl, on the same rows.

    scripts/bench.py --device cpu                          all cells: some hours
    scripts/bench.py --device cpu --cells C1,C5            only these
    scripts/bench.py --device cpu --resume                 those that a stopped run has not finished
    scripts/bench.py --device cpu --quick --skip-peers     seconds to minutes: does it work?

Writes results.json and results.md. Needs the release build, models/SmolLM2-135M-Instruct
(scripts/fetch_smollm2.py) and the packages of `scripts/setup.sh --bench`; a peer that cannot be
imported is left out and the table says so. Nothing else should run on the machine.

ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 before it measures both
sides with the instructions of an older processor.

QLORA_BIN=/path    folder with the built programs; default: build/release/bin
"""

import argparse
import glob
import json
import os
import shutil
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))

import figures  # noqa: E402
import goals  # noqa: E402
import machine  # noqa: E402
import report  # noqa: E402
import runner  # noqa: E402
from cells import ALPHA, CELLS, LEARNING_RATE, RANK  # noqa: E402
from limits import read_shape  # noqa: E402
from process import ProcessError, environment, run  # noqa: E402


def cell_names(text):
    names = [name.strip().upper() for name in text.split(",")]
    unknown = [name for name in names if name not in CELLS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: the cells are {', '.join(CELLS)}")
    return names


def at_least(least):
    def check(text):
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value

    return check


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", choices=["cpu"], required=True, help="there is no benchmark of a GPU yet"
    )
    parser.add_argument(
        "--cells", type=cell_names, default=list(CELLS), help="for example C1,C3; default: all"
    )
    parser.add_argument(
        "--list", action="store_true", help="print the cells and who runs in them, and stop"
    )
    parser.add_argument("--quick", action="store_true", help="3 steps a block, 16 held-out rows")
    parser.add_argument("--skip-peers", action="store_true", help="ours only")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="only these beside ours; see --list",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the finished cells in the output folder; same commit, machine and settings only",
    )
    parser.add_argument("--steps", type=at_least(1), help="timed steps of a block (default 8)")
    parser.add_argument(
        "--warm-up", type=at_least(1), help="steps of a block that are not timed (default 2)"
    )
    parser.add_argument(
        "--threads", type=at_least(1), default=machine.cores(), help="default: one for each core"
    )
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "SmolLM2-135M-Instruct")
    parser.add_argument(
        "--template", default="auto", help="for a model whose chat template is not recognised"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench" / "cpu")
    return parser.parse_args()


def check_names(options):
    known = {entrant.name for name in options.cells for entrant in CELLS[name].entrants}
    unknown = [name for name in options.only if name not in known]
    if unknown:
        sys.exit(
            f"bench: --only {unknown[0]!r}: none of these cells has it; --list shows the names"
        )


def print_cells():
    for cell in CELLS.values():
        print(f"{cell.name}: {cell.work}")
        for entrant in cell.entrants:
            print(f"    {entrant.name}")


def find_jemalloc():
    found = sorted(
        glob.glob("/usr/lib/*/libjemalloc.so.2") + glob.glob("/usr/lib*/libjemalloc.so.2")
    )
    return Path(found[0]) if found else None


def find_python():
    """The project's environment; else the one that runs this."""
    python = ROOT / ".venv" / "bin" / "python"
    return python if python.exists() else Path(sys.executable)


def make_setup(options):
    programs = Path(os.environ.get("QLORA_BIN", ROOT / "build" / "release" / "bin")).resolve()
    for program in ("qlora-train", "qlora-eval"):
        if not (programs / program).is_file():
            sys.exit(f"bench: {programs} holds no {program}: build first, or set QLORA_BIN")
    model = options.model.resolve()
    if not (model / "config.json").is_file():
        sys.exit(f"bench: {model} holds no model: run scripts/fetch_smollm2.py, or give --model")
    work = options.output.resolve() / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return runner.Setup(
        root=ROOT,
        python=find_python(),
        bin=programs,
        model=model,
        shape=read_shape(model),
        template=options.template,
        threads=options.threads,
        work=work,
        adapter=work / "adapter",
        nested_scales=work / "nested_scales.safetensors",
        jemalloc=find_jemalloc(),
        skip_peers=options.skip_peers,
        only=options.only,
        steps=options.steps or (2 if options.quick else 8),
        warm_up=options.warm_up or (1 if options.quick else 2),
        parity_steps=3 if options.quick else 20,
        repeats=0 if options.quick else 2,
        held_out=16 if options.quick else 300,
    )


def settings(options, setup):
    return {
        "device": options.device,
        "quick": options.quick,
        "skip_peers": setup.skip_peers,
        "only": setup.only,
        "threads": setup.threads,
        "steps": setup.steps,
        "warm_up": setup.warm_up,
        "parity_steps": setup.parity_steps,
        "rank": RANK,
        "alpha": ALPHA,
        "learning_rate": LEARNING_RATE,
        "spread": runner.SPREAD,
        "bounds": figures.BOUNDS,
    }


def finished_cells(results, output):
    """The cells of an earlier run into the same folder; it must have been this very benchmark."""
    file = output / "results.json"
    if not file.is_file():
        return []
    earlier = json.loads(file.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(results))
    others = [key for key in ("machine", "model", "settings") if earlier[key] != now[key]]
    if others:
        sys.exit(
            f"bench: --resume: {file} differs in its {', '.join(others)}: give another --output, or"
            " run all cells again"
        )
    return earlier["cells"]


def write_results(results, output):
    """After each cell, so that a long run that is stopped leaves what it has."""
    results["cells"].sort(key=lambda cell: list(CELLS).index(cell["cell"]))
    results["goals"] = goals.judged(results["cells"])
    (output / "results.json").write_text(
        json.dumps(results, indent=1, default=str) + "\n", encoding="utf-8"
    )
    (output / "results.md").write_text(report.markdown(results), encoding="utf-8")


def main():
    options = parse_arguments()
    if options.list:
        print_cells()
        return 0
    check_names(options)
    setup = make_setup(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no child outlives this
    try:
        runner.run_python(setup, "adapter.py", "--model", setup.model, "--output", setup.adapter)
        idle = run([setup.bin / "qlora-train", "--version"], environment(setup.threads, spins=True))
        results = {
            "machine": machine.describe(
                ROOT, setup.python, setup.bin / "qlora-train", setup.jemalloc
            ),
            "model": setup.model.name,
            "settings": settings(options, setup),
            "baseline_rss": idle.peak_rss,
            "cells": [],
        }
        if options.resume:
            results["cells"] = finished_cells(results, options.output)
        kept = [cell["cell"] for cell in results["cells"]]
        if kept:
            runner.say(f"kept from {options.output}: {', '.join(kept)}")
        write_results(results, options.output)
        for name in (name for name in options.cells if name not in kept):
            results["cells"].append(runner.CellRun(CELLS[name], setup).run())
            write_results(results, options.output)
    except ProcessError as fault:
        print(f"bench: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"bench: stopped; finished cells are in {options.output}", file=sys.stderr)
        return 130
    print(report.markdown(results))
    print(f"bench: written to {options.output}/results.json and results.md", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
