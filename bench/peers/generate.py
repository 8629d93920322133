"""Greedy generation with transformers on a bitsandbytes NF4 model, with the time of each token.

mode "fp32": products in fp32 on every processor.
"""

import time

import torch
from quantized import load_quantized, read_job, write_result
from transformers import AutoTokenizer
from transformers.generation.streamers import BaseStreamer


class TokenTimes(BaseStreamer):
    """generate() hands over the prompt first, then each token."""

    def __init__(self):
        self.times = []

    def put(self, value):
        self.times.append(time.monotonic())

    def end(self):
        pass


def main():
    job = read_job()
    model, load_seconds = load_quantized(job)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    row = job.rows[0]
    prompt = torch.tensor([row["ids"][: row["supervised"].index(1)]])
    times = TokenTimes()
    with torch.inference_mode():
        answer = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=job.new_tokens + 1,
            streamer=times,
        )[0, prompt.shape[1] :]
    stamps = times.times[1:]
    write_result(
        job,
        load_quantize_seconds=load_seconds,
        first_token=stamps[0],
        last_token=stamps[-1],
        tokens=len(stamps),
        text=tokenizer.decode(answer, skip_special_tokens=True),
    )


if __name__ == "__main__":
    main()
