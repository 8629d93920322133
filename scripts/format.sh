#!/usr/bin/env bash
# Formats the C++ and CUDA sources with clang-format and .clang-format.
#
#   scripts/format.sh            formats all of include, src, tests and bench
#   scripts/format.sh --check    changes nothing; names the files that differ and exits 1 when there are any
#   CLANG_FORMAT=/path           use this clang-format (14 is the version whose output counts)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
clang_format=${CLANG_FORMAT:-$(command -v clang-format-14 || command -v clang-format || true)}
if [[ -z $clang_format ]]; then
    echo "format: clang-format is not installed (Debian: apt-get install clang-format)" >&2
    exit 2
fi

folders=()
for folder in include src tests bench; do
    [[ ! -d $folder ]] || folders+=("$folder")
done
mapfile -d '' files < <(find "${folders[@]}" -type f -regex '.*\.\(h\|cpp\|cuh?\)' -print0 | sort -z)

case ${1:-} in
    "")
        "$clang_format" -i "${files[@]}"
        echo "format: ${#files[@]} files are formatted"
        ;;
    --check)
        differing=0
        for file in "${files[@]}"; do
            if ! "$clang_format" "$file" | cmp -s - "$file"; then
                echo "format: $file differs"
                differing=$((differing + 1))
            fi
        done
        [[ $differing -eq 0 ]] || exit 1
        echo "format: ${#files[@]} files are as clang-format wants them"
        ;;
    *)
        echo "format: unknown option $1 (there is only --check)" >&2
        exit 2
        ;;
esac
