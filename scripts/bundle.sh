#!/usr/bin/env bash
# Makes a folder that checks a GPU elsewhere: programs, the CUDA plug-in, the small libraries they need, the
# kernels' tests and benchmark, GoogleTest's and the project's sources. LibTorch stays out: there the active
# Python's is used. Then, on the other machine: FOLDER/gpu_check.sh
#
#   scripts/bundle.sh [FOLDER]             default: build/bundle
#   scripts/bundle.sh --no-build [FOLDER]  takes build/cuda as it is
#
# QLORA_CUDA_ARCHITECTURES="80;90"  builds for these only: smaller and sooner
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

most=60  # MB
build=build/cuda
googletest=/usr/src/googletest/googletest

die() { echo "bundle: $*" >&2; exit 2; }

build_first=1
case ${1:-} in
    -h | --help) sed -n '2,9s/^# \?//p' "${BASH_SOURCE[0]}"; exit ;;
    --no-build) build_first= ; shift ;;
    -*) die "unknown option $1 (see scripts/bundle.sh --help)" ;;
esac
folder=${1:-build/bundle}
[[ ! -e $folder || -f $folder/gpu_check.sh ]] || die "$folder is there and no bundle; choose another folder"
[[ -d $googletest ]] || die "$googletest is missing (Debian: apt-get install googletest)"

if [[ -n $build_first ]]; then
    command -v nvcc >/dev/null || export PATH=$PATH:/usr/local/cuda/bin
    command -v nvcc >/dev/null || die "nvcc is neither on PATH nor in /usr/local/cuda/bin"
    cmake --preset cuda ${QLORA_CUDA_ARCHITECTURES:+"-DQLORA_CUDA_ARCHITECTURES=$QLORA_CUDA_ARCHITECTURES"}
    cmake --build --preset cuda --target qlora-train qlora-eval qlora-merge qlora-quantize qlora-data \
        qlora_kernels_cuda cuda_tests cuda_kernels_bench
fi

rm -rf "$folder"
mkdir -p "$folder/googletest" "$folder/source"
ln -s source/scripts/gpu_check.sh "$folder/gpu_check.sh"
cmake --install $build --prefix "$folder" --component Unspecified --strip >/dev/null  # without what reads Parquet
cmake --install $build --prefix "$folder" --component gpu_check --strip >/dev/null
cp -r $googletest/{include,src} "$folder/googletest/"
git ls-files -z | tar --null --files-from=- -cf - | tar -xf - -C "$folder/source"

size=$(du -sm --apparent-size "$folder" | cut -f1)
du -sm --apparent-size "$folder"/*/ | sort -rn | sed 's/^/bundle: MB /'
echo "bundle: $folder, $size MB"
((size <= most)) || die "more than $most MB: build for fewer architectures (QLORA_CUDA_ARCHITECTURES)"
