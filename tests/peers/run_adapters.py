#!/usr/bin/env python3
"""What AdapterHub's package `adapters` makes of tiny models: run by its own interpreter (test_bottleneck.py --environment).

  run_adapters.py golden REQUEST OUTPUT   trains each case of the request; writes start, result and what it computed
  run_adapters.py load MODEL ADAPTER ROWS  prints the mean loss of rows under an adapter that was written elsewhere
"""

import json
import math
import sys
from pathlib import Path

import adapters
import torch
import transformers
from transformers import AutoModelForCausalLM, get_scheduler

KINDS = {"seq_bn": adapters.SeqBnConfig, "double_seq_bn": adapters.DoubleSeqBnConfig, "par_bn": adapters.ParBnConfig}
NAME = "golden"


def load_model(folder):
    # sdpa of transformers 4 leaves out Gemma 2's softcap.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    adapters.init(model)
    return model.eval()


def row_logprobs(model, row):
    """Of each token given those before it."""
    logits = model(input_ids=torch.tensor([row["ids"]])).logits[0, :-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(row["ids"][1:])[:, None])[:, 0]


def loss_sum(model, row):
    mask = torch.tensor(row["supervised"][1:]).bool()
    return -row_logprobs(model, row)[mask].sum(), int(mask.sum())


def mean_loss(model, rows):
    with torch.no_grad():
        sums = [loss_sum(model, row) for row in rows]
    return sum(s.item() for s, _ in sums) / sum(n for _, n in sums)


def train(model, steps, training):
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": training["weight_decay"]},
              {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=training["learning_rate"], foreach=False)
    scheduler = get_scheduler(training["lr_scheduler_type"], optimizer, training["warmup_steps"], training["max_steps"])
    losses, norms = [], []
    for rows in steps:
        optimizer.zero_grad()
        total = sum(sum(row["supervised"][1:]) for row in rows)
        loss = 0.0
        for row in rows:
            part = loss_sum(model, row)[0] / total
            part.backward()
            loss += part.item()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, training["max_grad_norm"]).item())
        losses.append(loss)
        optimizer.step()
        scheduler.step()
    return losses, norms


def golden(request, output):
    results = {"versions": {"adapters": adapters.__version__, "transformers": transformers.__version__,
                            "torch": torch.__version__}, "cases": {}}
    for name, case in request.items():
        torch.manual_seed(7)
        model = load_model(case["model"])
        model.add_adapter(NAME, config=KINDS[case["kind"]](**case["settings"]))
        model.train_adapter(NAME)
        model.eval()  # while it trains too: GPT-2's base has a dropout of its own
        folder = output / name
        model.save_adapter(folder, NAME, with_head=False, use_safetensors=True)
        untrained = mean_loss(model, case["rows"])
        losses, norms = train(model, [[case["rows"][i] for i in step] for step in case["steps"]], case["training"])
        model.save_adapter(output / "trained", NAME, with_head=False, use_safetensors=True)
        (output / "trained" / "adapter.safetensors").rename(folder / "trained.safetensors")
        config = folder / "adapter_config.json"  # without the path of a folder that is gone
        text = json.dumps({**json.loads(config.read_text()), "model_name": name.split("-")[0]}, indent=2, sort_keys=True)
        config.write_text(text)
        with torch.no_grad():
            logprobs = [row_logprobs(model, row).tolist() for row in case["rows"][:3]]
        assert all(map(math.isfinite, losses))
        results["cases"][name] = {"steps": case["steps"], "rows": case["rows_hash"], "untrained": untrained,
                                  "losses": losses, "norms": norms, "logprobs": logprobs}
    (output / "golden.json").write_text(json.dumps(results, indent=1) + "\n")


def main():
    torch.set_num_threads(1)
    command, *arguments = sys.argv[1:]
    if command == "golden":
        request, output = arguments
        golden(json.loads(Path(request).read_text()), Path(output))
    else:
        folder, adapter, rows = arguments
        model = load_model(folder)
        info = {}
        model.load_adapter(adapter, use_safetensors=True, set_active=True, loading_info=info)
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        print(json.dumps({"loss": mean_loss(model, json.loads(Path(rows).read_text()))}))


if __name__ == "__main__":
    main()
