"""The training loop that a user of transformers, peft and bitsandbytes writes: padded batches, the
model's own loss, fp32, sdpa, no checkpointing, torch's clipping and fused AdamW.
"""

import time

import torch
from quantized import load_quantized, padded, read_job, with_adapter, write_result


def main():
    job = read_job()
    base, load_seconds = load_quantized(job)
    model = with_adapter(base, job)
    model.config.use_cache = False
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job.learning_rate, weight_decay=0.0, fused=True)
    begin, ends, losses = time.monotonic(), [], []
    for step in job.steps:
        loss = model(**padded([job.rows[i] for i in step])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        ends.append(time.monotonic())
    write_result(job, load_quantize_seconds=load_seconds, begin=begin, ends=ends, losses=losses)


if __name__ == "__main__":
    main()
