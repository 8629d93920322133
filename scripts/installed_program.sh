#!/bin/sh
# Starts an installed program with the LibTorch it finds: QLORA_TORCH_LIB, lib/ beside this folder, the active Python.
here=$(dirname "$(dirname "$(readlink -f "$0")")")
name=$(basename "$0")
program=$here/libexec/qlora/$name

for folder in "${QLORA_TORCH_LIB:-}" "$here/lib" "${VIRTUAL_ENV:-/nowhere}"/lib/python3*/site-packages/torch/lib; do
    if [ -n "$folder" ] && [ -f "$folder/libtorch_cpu.so" ]; then
        found=$folder
        break
    fi
done
if [ -z "${found:-}" ] && command -v python3 >/dev/null; then
    # Looks the package up without importing it.
    folder=$(python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])' 2>/dev/null)
    [ -f "$folder/lib/libtorch_cpu.so" ] && found=$folder/lib
fi
if [ -z "${found:-}" ]; then
    echo "$name: LibTorch 2.11 was not found: set QLORA_TORCH_LIB to the folder with libtorch_cpu.so" >&2
    exit 2
fi
LD_LIBRARY_PATH=$found${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$program" "$@"
