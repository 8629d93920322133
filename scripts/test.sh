#!/usr/bin/env bash
# Installs what is needed, builds, and runs all tests; prints the time of each part and the ten slowest tests.
#
#   scripts/test.sh          25 minutes on 2 quiet cores, 13 with a full compiler cache
#   scripts/test.sh --full   also every kill point, hundreds of random kills, ten minutes of each fuzzer, and chromium
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${1:-} in
    "") ;;
    --full) export QLORA_FULL=1 ;;
    -h | --help) sed -n '2,5s/^# \?//p' "${BASH_SOURCE[0]}"; exit ;;
    *) echo "test: unknown option $1 (see scripts/test.sh --help)" >&2; exit 2 ;;
esac

report=()
failed=0

# part NAME command...: runs it and notes its time and outcome
part() {
    local name=$1 start=$SECONDS outcome=passed
    shift
    printf '\n== %s\n' "$name"
    "$@" || { outcome=FAILED; failed=$((failed + 1)); }
    report+=("$(printf '%-44s %6d s  %s' "$name" $((SECONDS - start)) $outcome)")
    [[ $outcome == passed ]]
}

finish() {
    if [[ -n $(ls "$junit") ]]; then
        printf '\n== the ten slowest tests\n'
        .venv/bin/python -B scripts/slowest_tests.py 10 "$junit"/*.xml
    fi
    printf '\n== times\n'
    printf '%s\n' "${report[@]}"
    echo "${#report[@]} parts, $failed failed, $SECONDS s in all"
    exit $((failed > 0))
}

build() {
    cmake --preset "$1" -DQLORA_TESTS=ON >"build/configure-$1.log" || { cat "build/configure-$1.log"; return 1; }
    cmake --build --preset "$1"
}

# The cores that this process may use. Asked for first: nproc answers with OMP_NUM_THREADS where that is set.
workers=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
export OMP_NUM_THREADS=1  # two threaded programs side by side slow each other down
export QLORA_BIN=$PWD/build/release/bin
export QLORA_SMOLLM2=$PWD/models/SmolLM2-135M-Instruct
export PATH=$PATH:/usr/local/cuda/bin  # nvcc, where its installer puts it
mkdir -p build
junit=$(mktemp -d)  # each part's results, as JUnit's XML
trap 'rm -rf "$junit"' EXIT

# unit_tests PRESET
unit_tests() {
    ctest --preset "$1" --no-tests=error -j "$workers" --output-junit "$junit/$1.xml"
}
# pytest NAME argument...
pytest() {
    local name=$1
    shift
    .venv/bin/python -B -m pytest -q -p no:cacheprovider --junitxml "$junit/$name.xml" "$@"
}

# The plug-in for one architecture, and what can be tested of it without a GPU: that it builds without warnings and
# links, and that no kernel spills registers.
cuda_plug_in() {
    local build=build/cuda-one
    cmake --preset cuda -B $build -DQLORA_WITH_TORCH=OFF -DQLORA_CUDA_ARCHITECTURES=90 \
        >$build.log || { cat $build.log; return 1; }
    cmake --build $build --target qlora_kernels_cuda cuda_tests plugin_tests cuda_kernels_bench || return 1
    ctest --test-dir $build --output-on-failure --no-tests=error -L cuda || return 1
    .venv/bin/python -B scripts/kernel_report.py --arch sm_90 --build $build --jobs "$workers"
}

peers() { pytest peers -n "$workers" --dist loadscope tests/peers --ignore tests/peers/test_training_parity.py; }
training_parity() { OMP_NUM_THREADS=$workers pytest parity tests/peers/test_training_parity.py; }
faults() { pytest faults -n "$workers" --dist worksteal tests/faults; }
fuzz() { scripts/fuzz.sh "${QLORA_FULL:+600}"; }

part "install" scripts/setup.sh --tests || finish
part "the model SmolLM2-135M-Instruct" .venv/bin/python -B scripts/fetch_smollm2.py --output "$QLORA_SMOLLM2"
part "build release" build release || finish
part "unit tests" unit_tests release
part "build asan (torch-free libraries)" build asan && part "unit tests, ASan and UBSan" unit_tests asan
if command -v nvcc >/dev/null; then
    part "the CUDA plug-in for one architecture" cuda_plug_in
else
    echo "test: the CUDA plug-in is left out: nvcc is neither on PATH nor in /usr/local/cuda/bin"
fi
part "the Python peers" peers
part "training parity with transformers and peft" training_parity
part "faults: resume, kill, signals, disk, memory" faults
[[ -z ${QLORA_FULL:-} ]] || part "fuzzing" fuzz
finish
