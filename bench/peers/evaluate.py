"""Held-out loss with transformers on a bitsandbytes NF4 model, in padded batches.

mode "sorted": rows of similar length share a batch; "fp32": products in fp32 on every processor.
"""

import time

import torch
from quantized import load_quantized, padded, read_job, write_result


def main():
    job = read_job()
    model, load_seconds = load_quantized(job)
    model.config.use_cache = False
    model.eval()
    rows = (
        sorted(job.rows, key=lambda row: len(row["ids"]))
        if "sorted" in job.mode.split()
        else job.rows
    )
    supervised = sum(sum(row["supervised"][1:]) for row in rows)
    begin, total = time.monotonic(), 0.0
    with torch.inference_mode():
        for i in range(0, len(rows), job.batch):
            batch = padded(rows[i : i + job.batch])
            total += model(**batch, num_items_in_batch=supervised).loss.double().item()
    write_result(
        job,
        load_quantize_seconds=load_seconds,
        evaluation_seconds=time.monotonic() - begin,
        loss=total,
    )


if __name__ == "__main__":
    main()
