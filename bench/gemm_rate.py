"""Rate of torch's fp32 matrix products in a model's own shapes; prints one line of JSON.

    gemm_rate.py --model DIR --rows 1024 --supervised 511 --threads 2 [--forward-only]

Times each product of a layer and the head, forward (x W^T) and input gradient (dy W), with q/k/v
and gate/up as one product each, which is the faster form. The rate is all operations of one pass
over all layers and the head, divided by the sum of their times, so each shape weighs by its share
of the operations. Weights rotate over four layers, whose bytes are more than a cache holds.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from limits import read_shape

LAYER_COPIES = 4
HEAD_CHUNK = 512  # rows of one product with the head, whose output is the widest by far


def products(shape):
    """(name, inputs, outputs, how many in the model)"""
    d, ff = shape.hidden, shape.intermediate
    return [
        ("qkv", d, shape.query_width + 2 * shape.kv_width, shape.layers),
        ("o", shape.query_width, d, shape.layers),
        ("gate_up", d, 2 * ff, shape.layers),
        ("down", ff, d, shape.layers),
        ("head", d, shape.vocab, 1),
    ]


def seconds_per_product(weights, left, transposed, rounds):
    """Median over rounds of the mean time of one product with each of the weights."""
    right = [w.t() if transposed else w for w in weights]
    out = torch.mm(left, right[0])
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for w in right:
            torch.mm(left, w, out=out)
        times.append((time.perf_counter() - start) / len(right))
    return statistics.median(times)


def measure(shape, rows, supervised, forward_only, rounds=5):
    flops = seconds = 0.0
    parts = {}
    generator = torch.Generator().manual_seed(0)
    for name, inputs, outputs, count in products(shape):
        is_head = name == "head"
        m = min(HEAD_CHUNK, supervised) if is_head else rows
        weights = [
            torch.randn(outputs, inputs, generator=generator)
            for _ in range(1 if is_head else LAYER_COPIES)
        ]
        weight = supervised / m if is_head else count
        for direction in ("forward",) if forward_only else ("forward", "input_gradient"):
            forward = direction == "forward"
            left = torch.randn(m, inputs if forward else outputs, generator=generator)
            each = seconds_per_product(weights, left, forward, 3 if is_head else rounds)
            operations = 2.0 * m * inputs * outputs
            parts[f"{name}.{direction}"] = round(operations / each / 1e9, 2)
            flops += weight * operations
            seconds += weight * each
    return {"gflops": flops / seconds / 1e9, "parts": parts}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=int, required=True, help="tokens in a step")
    parser.add_argument("--supervised", type=int, required=True, help="supervised tokens in a step")
    parser.add_argument("--forward-only", action="store_true")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = read_shape(options.model)
    print(json.dumps(measure(shape, options.rows, options.supervised, options.forward_only)))


if __name__ == "__main__":
    main()
