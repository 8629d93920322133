"""Times bitsandbytes' NF4 dequantization with double quantization to bf16; a line of JSON for each shape.

    peer_dequantize.py 4096x4096 14336x4096

Bytes are counted as in bench/cuda_kernels_bench.cpp.
"""

import json
import statistics
import sys

import bitsandbytes.functional as functional
import torch

BYTES_PER_ROUND, REPEATS = 1e9, 5


def measure(rows, columns):
    n = rows * columns
    blocks = -(-n // 64)
    size = n / 2 + blocks + 4 * -(-blocks // 256) + 2 * n
    sets = int(min(64, max(1, BYTES_PER_ROUND / size)))
    weights = []
    for _ in range(sets):
        dense = torch.randn(rows, columns, dtype=torch.bfloat16, device="cuda")
        packed, state = functional.quantize_4bit(
            dense, blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        weights.append((packed, state, torch.empty_like(dense)))

    def round_of(count):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for i in range(count):
            packed, state, out = weights[i % sets]
            functional.dequantize_4bit(packed, state, out=out)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / count

    round_of(sets)
    count = int(min(4096, max(sets, 0.02 / round_of(sets))))
    seconds = statistics.median(round_of(count) for _ in range(REPEATS))
    return {"shape": f"{rows}x{columns}", "microseconds": seconds * 1e6, "gb_per_s": size / seconds / 1e9}


def main():
    for shape in sys.argv[1:]:
        rows, columns = map(int, shape.split("x"))
        print(json.dumps(measure(rows, columns)), flush=True)


if __name__ == "__main__":
    main()
