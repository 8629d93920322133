"""The training loop of a user of transformers, peft and bitsandbytes: bf16 autocast, sdpa, fused AdamW, rows
of one length, checkpointing only where the model does not fit without.

    peer_training.py JOB.json    with model, rows (ids), steps (places of rows), output
"""

import json
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def load(job):
    base = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype=torch.bfloat16, attn_implementation="sdpa", device_map={"": 0}
    )
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    model.config.use_cache = False
    model.train()
    return model


def run_steps(model, job):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0, fused=True)
    seconds, losses = [], []
    for step in job["steps"]:
        begin = time.monotonic()
        ids = torch.tensor([job["rows"][i] for i in step], device="cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        torch.cuda.synchronize()
        seconds.append(time.monotonic() - begin)
    return seconds, losses


def main():
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    model, checkpointing = load(job), False
    try:
        seconds, losses = run_steps(model, job)
    except torch.cuda.OutOfMemoryError:
        checkpointing = True
    if checkpointing:
        torch.cuda.empty_cache()
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        seconds, losses = run_steps(model, job)
    result = {
        "step_seconds": seconds,
        "losses": losses,
        "checkpointing": checkpointing,
        "reserved": torch.cuda.max_memory_reserved(),
    }
    Path(job["output"]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
