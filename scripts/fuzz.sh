#!/usr/bin/env bash
# Builds the libFuzzer targets with clang and runs each for SECONDS (default 60), under ASan and UBSan. What they
# learn stays in build/fuzz, and so does an input that fails. jinja_fuzz begins with the chat templates that
# tests/peers fetched, where they are.
#
#   scripts/fuzz.sh [SECONDS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-60}
clang=$(command -v clang++ || command -v clang++-14) ||
    { echo "fuzz: clang++ is needed: apt-get install clang libclang-rt-14-dev" >&2; exit 1; }
out=build/fuzz
templates=${QLORA_TEST_CACHE:-build/test-cache}/chat_templates
failed=0
mkdir -p $out
for target in tests/fuzz/*_fuzz.cpp; do
    name=$(basename "$target" .cpp)
    case $name in
        safetensors_fuzz) sources=(src/io/*.cpp src/core/*.cpp) ;;
        jinja_fuzz) sources=(src/jinja/*.cpp src/core/*.cpp) ;;
        *) sources=(src/data/formats/*.cpp src/data/{record_format,message,data_config,white_space,row_source,row_text,byte_reader,byte_stream}.cpp
                    src/data/{file_kind,json_array,json_lines,json_value_end,json_cell,delimited_cells,delimited_rows}.cpp
                    src/data/{compression,gzip_stream,zstd_stream,parquet_rows}.cpp src/core/*.cpp) ;;
    esac
    "$clang" -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Iinclude -Isrc \
        "$target" "${sources[@]}" -lxxhash -lspdlog -lfmt -lz -lzstd -lutf8proc -o "$out/$name"
    mkdir -p "$out/$name-corpus"
    echo "fuzz: $name for $seconds s"
    corpora=("$out/$name-corpus")
    [[ $name != jinja_fuzz || ! -d $templates ]] || corpora+=("$templates")
    if "$out/$name" -max_total_time="$seconds" -print_final_stats=1 -artifact_prefix="$out/$name-" \
        "${corpora[@]}" >"$out/$name.log" 2>&1; then
        tail -n 8 "$out/$name.log"
    else
        tail -n 80 "$out/$name.log"
        failed=1
    fi
done
exit $failed
