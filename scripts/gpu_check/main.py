"""Runs the parts one after another and prints one table; see scripts/gpu_check.sh."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import gpu  # noqa: E402
from kernel_checks import check_kernels  # noqa: E402
from kernel_speed import measure_kernels  # noqa: E402
from place import find_place  # noqa: E402
from results import Results  # noqa: E402
from training_checks import check_training  # noqa: E402
from training_speed import MODELS, measure_training  # noqa: E402

PARTS = ("kernels", "training", "kernel-speed", "training-speed")


def listed(choices):
    def check(text):
        names = text.split(",")
        for name in names:
            if name not in choices:
                raise argparse.ArgumentTypeError(f"{name} is not one of {', '.join(choices)}")
        return names

    return check


def parse_arguments():
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__)
    parser.add_argument("--parts", type=listed(PARTS), default=list(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--models", type=listed(MODELS), default=list(MODELS), help=f"of {','.join(MODELS)}")
    parser.add_argument("--minutes", type=float, default=8.0, help="the whole may take (default 8)")
    parser.add_argument("--output", type=Path, default=Path("gpu_check"), help="folder for gpu_check.json")
    parser.add_argument("--work", type=Path, help="folder for models and runs: 8 GB (default: in --output)")
    parser.add_argument("--rebuild", action="store_true", help="build tests and benchmark here in any case")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at once")
    return parser.parse_args()


def run_parts(options, results, work):
    place = find_place(work, options.jobs, options.rebuild)
    if "kernels" in options.parts:
        check_kernels(place, results, work)
    if "training" in options.parts:
        check_training(place, results, work)
    if "kernel-speed" in options.parts:
        measure_kernels(place, results)
    if "training-speed" in options.parts:
        measure_training(place, results, work, options.models)


def main():
    options = parse_arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    results = Results(options.minutes, gpu.describe() | {"python": sys.version.split()[0]})
    file = options.output / "gpu_check.json"
    with tempfile.TemporaryDirectory(prefix="gpu_check-", dir=options.work or options.output) as work:
        try:
            run_parts(options, results, Path(work).resolve())
        finally:
            file.write_text(json.dumps(results.as_json(), indent=1) + "\n", encoding="utf-8")
    print(f"\n{results.table()}\nwritten to {file}")
    return 1 if results.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
