#!/usr/bin/env bash
# Installs what building and running needs; does nothing when everything is there.
#
#   scripts/setup.sh           Debian packages (root or sudo, only for missing ones), LibTorch and Arrow in .venv
#   scripts/setup.sh --tests   also the Python packages and programs that the tests compare with; with QLORA_FULL=1
#                              clang for the fuzzers and chromium for the page of qlora-data too
#   scripts/setup.sh --bench   what --tests installs, and what scripts/bench.py compares with: trl, jemalloc
#
# QLORA_TORCH=/path  use this LibTorch folder, or this Python environment, instead of installing LibTorch
# PYTHON=/path       make .venv with this interpreter (CPython 3.10 to 3.14)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
venv=$root/.venv
log=$root/build/setup.log

build_packages=(g++ cmake ninja-build ccache mold pkg-config ca-certificates libcli11-dev nlohmann-json3-dev
                libspdlog-dev libsentencepiece-dev libpcre2-dev libutf8proc-dev libxxhash-dev zlib1g-dev
                libzstd-dev libgtest-dev libbenchmark-dev libboost-context-dev zstd)
test_packages=(strace wordnet-base ${QLORA_FULL:+clang libclang-rt-14-dev chromium})
bench_packages=(libjemalloc2)

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

# run_logged SENTENCE command...: the command's output goes to the log; when it fails, the sentence, the last
# error and the log's name are what the user sees.
run_logged() {
    local sentence=$1 reason
    shift
    if ! "$@" >"$log" 2>&1; then
        reason=$(grep -iE '^(e:|error)' "$log" | tail -n 1 || true)
        die "$sentence (${reason:-$(tail -n 1 "$log")}; all of it is in $log)"
    fi
}

# --- Debian packages ---

# missing_packages name...: those that dpkg does not list as installed
missing_packages() {
    local installed
    installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
    for name in "$@"; do
        grep -qxF "installed $name" <<<"$installed" || echo "$name"
    done
}

install_packages() {
    local missing as_root=()
    if ! { command -v dpkg-query && command -v apt-get; } >/dev/null; then
        die "this needs a Debian or Ubuntu system with apt-get; elsewhere install by hand the likes of: $*"
    fi
    mapfile -t missing < <(missing_packages "$@")
    [[ ${#missing[@]} -gt 0 ]] || return 0
    if [[ $(id -u) -ne 0 ]]; then
        command -v sudo >/dev/null || die "installing needs root and there is no sudo:" \
            "run as root 'apt-get install ${missing[*]}', then this again"
        as_root=(sudo)
        if [[ ! -t 0 ]] && ! sudo -n true 2>/dev/null; then
            die "sudo asks for a password and there is no terminal:" \
                "run 'sudo apt-get install ${missing[*]}', then this again"
        fi
        say "sudo is used to install Debian packages"
        sudo -v || die "sudo was refused: let an administrator run 'apt-get install ${missing[*]}'," \
            "then run this again"
    fi
    say "installing Debian packages: ${missing[*]}"
    # A stale list is no reason to stop: the installation says whether it can go on.
    local apt_get=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
    "${apt_get[@]}" update >"$log" 2>&1 || true
    run_logged "apt-get could not install ${missing[*]}: is the network reachable?" \
        "${apt_get[@]}" install -y --no-install-recommends "${missing[@]}"
    mapfile -t missing < <(missing_packages "${missing[@]}")
    [[ ${#missing[@]} -eq 0 ]] || die "apt-get ended well, yet these are not installed: ${missing[*]}"
}

# at_least WANTED FOUND: compares version numbers
at_least() { [[ $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]; }

check_tools() {
    local cmake_version gxx_version
    cmake_version=$(cmake --version | sed -n '1s/.* //p')
    gxx_version=$("${CXX:-g++}" -dumpfullversion -dumpversion 2>/dev/null) || gxx_version=0
    at_least 3.25 "$cmake_version" ||
        die "cmake 3.25 or newer is needed, this is $cmake_version (Debian 12 has 3.25)"
    at_least 12 "$gxx_version" || die "g++ 12 or newer is needed, this is $gxx_version (Debian 12 has 12.2)"
}

# --- Python environment ---

is_usable_python() {
    "$1" -c 'import sys, venv, ensurepip
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

find_python() {
    local name
    if [[ -n ${PYTHON:-} ]]; then
        is_usable_python "$PYTHON" || die "PYTHON=$PYTHON is not CPython 3.10 to 3.14 with the venv module"
        echo "$PYTHON"
        return
    fi
    for name in python3 /usr/bin/python3 python3.{13,12,11,10,14}; do
        if is_usable_python "$name"; then
            echo "$name"
            return
        fi
    done
    return 1
}

# The environment's interpreter works and is of a version that LibTorch has wheels for.
is_venv_alive() { [[ -x $venv/bin/python ]] && is_usable_python "$venv/bin/python"; }

repair_pip() {
    say "repairing pip in .venv"
    rm -rf "$venv"/lib/python3*/site-packages/pip "$venv"/lib/python3*/site-packages/pip-*.dist-info
    run_logged "pip could not be put into .venv: remove .venv and run this again" \
        "$venv/bin/python" -m ensurepip --default-pip
}

make_venv() {
    local python
    if is_venv_alive; then
        "$venv/bin/python" -c 'import pip._vendor.packaging.requirements' 2>/dev/null || repair_pip
        return
    fi
    if ! python=$(find_python); then
        [[ -z ${PYTHON:-} ]] || exit 1  # find_python said why
        install_packages python3-venv
        python=$(find_python) || die "no Python from 3.10 to 3.14 was found, and LibTorch 2.11 has wheels" \
            "for these only: install one and name it with PYTHON=/path/to/python3"
    fi
    say "making .venv with $("$python" -V) ($python)"
    run_logged "the Python environment .venv could not be made" "$python" -m venv --clear "$venv"
}

# check_packages argument...: see scripts/check_packages.py
check_packages() { "$venv/bin/python" -B scripts/check_packages.py "$@"; }

# pip_install FILE pip-option...: what pip prints is shown on a terminal, since LibTorch takes minutes
pip_install() {
    local file=$1 pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input install)
    shift
    if [[ -t 1 ]]; then
        "${pip[@]}" "$@" -r "$file" 2>&1 | tee "$log" || die "pip could not install $(names_in "$file"):" \
            "the lines above say why; is the network reachable, and is there disk space?"
    else
        run_logged "pip could not install $(names_in "$file"): is there a network, and disk space?" \
            "${pip[@]}" --quiet "$@" -r "$file"
    fi
}

names_in() { grep -hvE '^(#|-r|$)' "$1" | paste -sd ' '; }

remove_damaged() {
    local kind path
    while read -r kind path; do
        if [[ $kind == damaged && $path == */pip-*.dist-info ]]; then
            repair_pip
        elif [[ $kind == damaged ]]; then
            say "repairing $(basename "$path" .dist-info): its installation was cut off or changed"
            rm -rf "$path"
        fi
    done
    rm -rf "$venv"/lib/python3*/site-packages/~*  # what an interrupted pip leaves
}

# ensure SIZE FILE BARE: installs the packages of the file unless all are there and whole
ensure() {
    local size=$1 file=$2 bare=$3 options=() state
    [[ -z $bare ]] || options=(--bare)
    state=$(check_packages "${options[@]}" "$file") && return
    remove_damaged <<<"$state"
    say "installing into .venv ($size to download): $(names_in "$file")"
    pip_install "$file" ${bare:+--no-deps}
    state=$(check_packages "${options[@]}" "$file") ||
        die "pip ended well but .venv is not whole ($(head -n 1 <<<"$state")); remove it and run this again"
}

# --- LibTorch ---

# torch_root PATH: the folder with lib/libtorch_cpu.so, under PATH itself or under a Python environment
torch_root() {
    local folder
    for folder in "$1" "$1"/lib/python3*/site-packages/torch; do
        if [[ -f $folder/lib/libtorch_cpu.so && -f $folder/lib/libc10.so && -d $folder/include/ATen ]]; then
            echo "$folder"
            return
        fi
    done
    return 1
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

install_python_packages() {
    local fetch=scripts/requirements-fetch.txt torch=scripts/requirements-torch.txt found
    local parquet=scripts/requirements-parquet.txt
    make_venv
    if [[ -n $tests ]]; then
        ensure "3 GB" tests/peers/requirements.txt ""
    else
        ensure "20 MB" $fetch ""
        ensure "50 MB" $parquet bare
    fi
    [[ -z $bench ]] || ensure "80 MB" bench/requirements.txt ""
    if [[ -n ${QLORA_TORCH:-} ]]; then
        found=$(torch_root "$QLORA_TORCH") || die "QLORA_TORCH=$QLORA_TORCH holds no LibTorch:" \
            "lib/libtorch_cpu.so, lib/libc10.so and include/ATen are neither in it nor in" \
            "lib/python3*/site-packages/torch under it"
        say "LibTorch: $found (QLORA_TORCH)"
        return
    fi
    if has_gpu; then
        ensure "3 GB" $torch ""
    else
        ensure "0.6 GB" $torch bare
    fi
    found=$(torch_root "$venv") ||
        die ".venv has torch but not its libraries and headers; remove it and run this again"
    say "LibTorch: $found"
}

main() {
    tests= bench=
    case ${1:-} in
        "") ;;
        --tests) tests=1 ;;
        --bench) tests=1 bench=1 ;;
        -h | --help) sed -n '2,10s/^# \?//p' "${BASH_SOURCE[0]}"; return ;;
        *) die "unknown option $1 (see scripts/setup.sh --help)" ;;
    esac
    mkdir -p build || die "the folder build cannot be made in $root"
    exec 9>build/.setup.lock
    if ! flock -n 9; then
        say "waiting for another setup to end"
        flock 9
    fi
    install_packages "${build_packages[@]}" ${tests:+"${test_packages[@]}"} ${bench:+"${bench_packages[@]}"}
    check_tools
    install_python_packages
    say "everything is there"
}

main "$@"
