"""The rate of torch's bf16 matrix products of 8192 on the card, of which a training rate is a share."""

import json
import statistics

import torch

SIZE, PRODUCTS, REPEATS = 8192, 20, 5


def main():
    a, b = (torch.randn(SIZE, SIZE, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    out = torch.mm(a, b)
    seconds = []
    for _ in range(1 + REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(PRODUCTS):
            torch.mm(a, b, out=out)
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1e3 / PRODUCTS)
    median = statistics.median(seconds[1:])  # the first is a warm-up
    print(json.dumps({"tflops": 2 * SIZE**3 / median / 1e12, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
