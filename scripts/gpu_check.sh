#!/usr/bin/env bash
# Checks and measures this project on the machine's GPU, in under 8 minutes: every kernel test on the card, a
# tiny model trained on CPU and card, rates of the kernels, training of three models of known shapes, and the
# same with transformers + peft + bitsandbytes where they are installed. One table comes last; all figures are
# in one JSON file.
#
#   scripts/gpu_check.sh                       everything
#   scripts/gpu_check.sh --parts kernels       only these: kernels, training, kernel-speed, training-speed
#   scripts/gpu_check.sh --help                all options
#
# Needs an NVIDIA driver and Python 3.10. In a folder that scripts/bundle.sh made, programs are there and
# LibTorch is that of the active Python; elsewhere nvcc 13 builds the kernels' tests and benchmark here, and
# QLORA_BIN may name a folder with qlora-train. No network is used.
# Exit codes: 0 all well, 1 something failed, 2 it cannot run here.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)

die() { echo "gpu_check: $*" >&2; exit 2; }

case ${1:-} in
    -h | --help) ;;
    *)
        command -v nvidia-smi >/dev/null ||
            die "this machine has no NVIDIA driver (nvidia-smi is not on PATH)"
        # Read to its end: a list that is cut off by `grep -q` ends its writer, and with it the pipeline.
        nvidia-smi -L 2>/dev/null | grep '^GPU' >/dev/null || die "the NVIDIA driver lists no GPU (nvidia-smi -L)"
        ;;
esac
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    die "$python is not Python 3.10 or newer; name one with PYTHON=/path/to/python3"
exec "$python" -B "$here/gpu_check/main.py" "$@"
