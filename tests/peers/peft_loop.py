"""A plain transformers + peft training loop, and the run of qlora-train that it is compared with.

The loop is what its users write: apply_chat_template, padded batches with labels of -100, the model's own loss with
num_items_in_batch, torch's clip_grad_norm_ and AdamW, transformers' get_scheduler. Only the rows of each step come from
the run (`rows` in metrics.jsonl), because the data order is ours.
"""

import dataclasses
import json
import subprocess

import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoTokenizer, Trainer, get_scheduler


def qlora_train(bin_dir, folder, run, *flags):
    """Runs qlora-train on the sections `run` in `folder`; returns the output folder."""
    run = {**run, "training": {"output_dir": "out", **run["training"]}}
    file = folder / "run.json"
    file.write_text(json.dumps(run))
    done = subprocess.run([bin_dir / "qlora-train", "--config", file, *flags], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder / run["training"]["output_dir"]


def read_lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def training_lines(output):
    return [line for line in read_lines(output / "metrics.jsonl") if "loss" in line]


@dataclasses.dataclass
class Row:
    ids: list
    supervised: list  # booleans


def answer_mask(ids, answers, start, end):
    """Supervised places: what follows each '<|im_start|>assistant\\n' up to and with the next end token."""
    mask, at = [False] * len(ids), 0
    for _ in range(answers):
        while ids[at : at + len(start)] != start:
            at += 1
        at += len(start)
        stop = ids.index(end, at)
        mask[at : stop + 1] = [True] * (stop + 1 - at)
        at = stop
    return mask


def chatml_rows(model_folder, data_file, everything=False):
    """Ids and masks of each row, by transformers' apply_chat_template and a mask of our own making."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    start = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    rows = []
    for line in read_lines(data_file):
        messages = line["messages"]
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        answers = sum(message["role"] == "assistant" for message in messages)
        mask = answer_mask(ids, answers, start, end)
        rows.append(Row(ids, [False] + [True] * (len(ids) - 1) if everything else mask))
    return rows


def padded(rows):
    """input_ids, attention_mask and labels as a Hugging Face collator makes them, padded on the right."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        n = len(row.ids)
        ids[i, :n] = torch.tensor(row.ids)
        mask[i, :n] = 1
        labels[i, :n] = torch.where(torch.tensor(row.supervised), ids[i, :n], -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def supervised_tokens(rows):
    return sum(sum(row.supervised[1:]) for row in rows)


def mean_loss(model, rows, batch=8):
    """Mean cross-entropy over all supervised tokens of the rows."""
    total = supervised_tokens(rows)
    model.eval()
    with torch.no_grad():
        return sum(
            model(**padded(rows[i : i + batch]), num_items_in_batch=total).loss.double().item()
            for i in range(0, len(rows), batch)
        )


def micro_batches(rows, size):
    return [rows[i : i + size] for i in range(0, len(rows), size)]


@dataclasses.dataclass
class PeerStep:
    loss: float
    grad_norm: float
    learning_rate: float


def make_optimizer(model, training):
    """AdamW as the HF trainer makes it, or peft's LoRA+."""
    if "loraplus_lr_ratio" in training:
        return create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=training["learning_rate"], loraplus_lr_ratio=training["loraplus_lr_ratio"],
            loraplus_weight_decay=training["weight_decay"], foreach=False,
            **{key: training[key] for key in ("loraplus_lr_embedding",) if key in training})
    decays = set(Trainer.get_decay_parameter_names(None, model))
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trained if name in decays], "weight_decay": training["weight_decay"]},
        {"params": [p for name, p in trained if name not in decays], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=training["learning_rate"], foreach=False)


def train_peer(model, steps, training):
    """Trains `model` on `steps` (lists of rows) with the settings of a run's training section."""
    optimizer = make_optimizer(model, training)
    scheduler = get_scheduler(
        training["lr_scheduler_type"], optimizer, training["warmup_steps"], training["max_steps"]
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    model.train()
    results = []
    for rows in steps:
        optimizer.zero_grad()
        total, loss_sum = supervised_tokens(rows), 0.0
        for batch in micro_batches(rows, training["per_device_train_batch_size"]):
            loss = model(**padded(batch), num_items_in_batch=total).loss
            loss.backward()
            loss_sum += loss.double().item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, training["max_grad_norm"]).item()
        results.append(PeerStep(loss_sum, norm, scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    return results


def peer_from_adapter(base, adapter):
    """peft's model of `base` with the adapter in `adapter`, ready to train."""
    return PeftModel.from_pretrained(base, adapter, is_trainable=True)


def widen_products(model):
    """Lets the bf16 linears of `model` multiply in fp32 and round the result once: what bf16 units do, and what torch does
    10 to 50 times slower on CPUs without them."""

    def widened(linear):
        weight = linear.weight.detach().float()
        bias = None if linear.bias is None else linear.bias.float()
        return lambda x: torch.nn.functional.linear(x.float(), weight, bias).to(x.dtype)

    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.weight.dtype == torch.bfloat16:
            module.forward = widened(module)


def trained_tensors(model):
    """The peer's trained tensors under the keys of an adapter file, copied."""
    tensors = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors[name.replace(".default", "").replace("modules_to_save.", "")] = parameter.detach().clone().float()
    return tensors


