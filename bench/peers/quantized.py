"""What the peers' programs share: their job, the NF4 model, padded batches.

A peer is run as `python FILE JOB.json`. The job names the model, the adapter to start from, the
rows and where the result goes; the result is JSON. Times are of the system's monotonic clock, which
the benchmark reads too.
"""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file


@dataclasses.dataclass
class Job:
    model: str
    rows: list  # {"ids", "supervised"}
    output: str
    threads: int
    nested_scales: str  # file of nested_scales.py
    mode: str = ""
    adapter: str = ""
    steps: list = dataclasses.field(default_factory=list)  # rows' places, a list a step
    learning_rate: float = 0.0
    batch: int = 1
    new_tokens: int = 0


def read_job():
    fields = json.loads(Path(sys.argv[1]).read_text())
    fields["rows"] = json.loads(Path(fields["rows"]).read_text())["rows"]
    job = Job(**fields)
    torch.set_num_threads(job.threads)
    return job


def write_result(job, **result):
    result["allocator"] = "jemalloc" if "jemalloc" in os.environ.get("LD_PRELOAD", "") else "glibc"
    Path(job.output).write_text(json.dumps(result))


def load_quantized(job):
    """The model in NF4 with double quantization; and the seconds that load and quantize took."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    begin = time.monotonic()
    model = AutoModelForCausalLM.from_pretrained(
        job.model,
        dtype=torch.float32,
        attn_implementation="sdpa",
        device_map="cpu",
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )
    seconds = time.monotonic() - begin
    weights = dict(model.named_parameters())
    for name, codes in load_file(job.nested_scales).items():
        weights[name].quant_state.absmax.copy_(codes)
    if "fp32" in job.mode.split():
        for module in model.modules():
            module.support_avx512bf16_for_cpu = (
                False  # what bitsandbytes' linear asks before it repacks for bf16
            )
    return model, seconds


def with_adapter(model, job):
    from peft import PeftModel

    return PeftModel.from_pretrained(model, job.adapter, is_trainable=True)


def labels_of(row):
    return [i if flag else -100 for i, flag in zip(row["ids"], row["supervised"])]


def padded(rows):
    """A batch as a Hugging Face collator makes it, padded on the right."""
    width = max(len(row["ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        n = len(row["ids"])
        ids[i, :n] = torch.tensor(row["ids"])
        mask[i, :n] = 1
        labels[i, :n] = torch.tensor(labels_of(row))
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
