#!/bin/sh
# Starts an installed program with the LibTorch it finds: lib/ of this folder, QLORA_TORCH_LIB, the active Python's.
# Where lib/ holds LibTorch, the other two are asked for LibTorch's CUDA libraries only, which must be of the same build.
# Of a self-contained folder this shell is all that a start needs: no other program runs then.
self=$0
[ ! -h "$self" ] || self=$(readlink -f "$self")
case $self in
    */*) folder=${self%/*} ;;
    *) folder=. ;;
esac
here=$(CDPATH= cd -P -- "$folder/.." && pwd)
name=${self##*/}

# find_torch FILE: sets `found` to the first folder that holds this file of LibTorch, or to nothing
find_torch() {
    for found in "${QLORA_TORCH_LIB:-}" "${VIRTUAL_ENV:-/nowhere}"/lib/python3*/site-packages/torch/lib; do
        [ -n "$found" ] && [ -f "$found/$1" ] && return
    done
    found=
    command -v python3 >/dev/null || return
    # Looks the package up without importing it.
    found=$(python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])' 2>/dev/null)
    found=${found:+$found/lib}
    [ -f "$found/$1" ] || found=
}

# is_same_build FOLDER: whether LibTorch's own statement of its version and build there is that of lib/
is_same_build() {
    for statement in version.py build-version; do
        [ ! -f "$here/lib/torch/$statement" ] ||
            [ "$(cat "$here/lib/torch/$statement")" = "$(cat "$1/../$statement" 2>/dev/null)" ] || return
    done
}

# lacks_runtime: whether the C++ library that the system would load is older than lib/gcc's, or not there
lacks_runtime() {
    [ -f "$here/lib/gcc/needs" ] || return
    read -r needs <"$here/lib/gcc/needs"
    IFS=:
    for folder in ${LD_LIBRARY_PATH:-} /usr/lib/x86_64-linux-gnu /lib/x86_64-linux-gnu /usr/lib64 /lib64 /usr/lib; do
        if [ -f "$folder/libstdc++.so.6" ]; then
            unset IFS
            ! grep -qF "$needs" "$folder/libstdc++.so.6" 2>/dev/null
            return
        fi
    done
    unset IFS
}

# $here/lib is in the programs' own search path too, but as $ORIGIN/../../lib, which takes a mounted /proc.
path=$here/lib
if [ ! -f "$here/lib/libtorch_cpu.so" ]; then
    find_torch libtorch_cpu.so
    if [ -z "$found" ]; then
        echo "$name: LibTorch 2.11 was not found: set QLORA_TORCH_LIB to the folder with libtorch_cpu.so" >&2
        exit 2
    fi
    path=$path:$found
elif [ ! -f "$here/lib/libqlora_kernels_cuda.so" ]; then
    [ -z "${QLORA_TORCH_LIB:-}" ] ||
        echo "$name: QLORA_TORCH_LIB is passed over: $here/lib has a LibTorch of its own, and no CUDA kernels" >&2
elif [ -e /dev/nvidiactl ] || [ -e /dev/dxg ]; then  # a driver is there
    find_torch libtorch_cuda.so
    if [ -n "$found" ] && is_same_build "$found"; then
        path=$path:$found
    elif [ -n "$found" ]; then
        echo "$name: LibTorch's CUDA libraries in $found are passed over: they are of another build than the LibTorch" \
            "in $here/lib" >&2
    fi
fi
! lacks_runtime || path=$path:$here/lib/gcc
LD_LIBRARY_PATH=$path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$here/libexec/qlora/$name" "$@"
