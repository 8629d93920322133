#!/usr/bin/env bash
# Runs a compiler command of the CUDA plug-in's build. What ptxas says about registers and spills is kept beside the
# object, as OBJECT.ptxas, for scripts/kernel_report.py; where the command fails, it is printed.
set -uo pipefail
object=
for ((i = 1; i < $#; i++)); do
    next=$((i + 1))
    [[ ${!i} != -o ]] || object=${!next}
done
[[ -n $object ]] || exec "$@"
if "$@" -Xptxas=-v >"$object.ptxas.new" 2>&1; then
    mv "$object.ptxas.new" "$object.ptxas"  # only now: a log that is there belongs to the object
    grep -i 'warning' "$object.ptxas" >&2 || true
else
    status=$?
    cat "$object.ptxas.new" >&2
    rm -f "$object.ptxas.new"
    exit $status
fi
