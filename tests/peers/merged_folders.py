"""Adapters of PEFT's and of ours on tiny models, made once for each file of tests, and qlora-merge run on them."""

import json
import re
import subprocess

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft_loop import qlora_train
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_model_parity import peer, sequences
from transformers import AutoModelForCausalLM

PATTERNS = {"target_modules": ["q_proj", "down_proj"], "use_rslora": True, "rank_pattern": {"q_proj": 3},
            "alpha_pattern": {"layers.1.mlp.down_proj": 5}}
ALL = {"target_modules": "all-linear", "r": 4, "lora_alpha": 16}
CASES = {
    "llama": ({}, PATTERNS),
    "llama-tied": ({"tie": True}, ALL),
    "llama-tied-head": ({"tie": True}, {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "norm"]}),
    "llama-tied-embedding": ({"tie": True}, {"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens"]}),
    "llama-tied-both": ({"tie": True, "max_shard_size": "100KB"},
                        {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    "llama-bias-lora-only": ({"bias": True}, {"target_modules": ["q_proj", "up_proj"], "bias": "lora_only"}),
    "qwen2-bias-all": ({"model_type": "qwen2"}, {"target_modules": ["q_proj", "o_proj"], "bias": "all"}),
    "qwen2-whole-linear": ({"model_type": "qwen2"}, {"target_modules": ["q_proj"], "modules_to_save": ["v_proj"]}),
    "qwen3": ({"model_type": "qwen3", "head_dim": 24}, {**ALL, "modules_to_save": ["q_norm", "embed_tokens"]}),
    "sharded-fp16": ({"dtype": "float16", "max_shard_size": "100KB"}, PATTERNS),
    "sharded-bf16": ({"dtype": "bfloat16", "max_shard_size": "100KB", "model_type": "qwen2"}, ALL),
    "sharded-tied-head": ({"tie": True, "max_shard_size": "100KB", "dtype": "bfloat16"},
                          {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]}),
}
NESTED = {"bnb_4bit_use_double_quant": True}
PLAIN = {"bnb_4bit_use_double_quant": False}


def run_merge(bin_dir, *flags):
    command = [bin_dir / "qlora-merge", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def merge(bin_dir, model, adapter, output, *flags):
    done = run_merge(bin_dir, "--model", model, "--adapter", adapter, "--output", output, *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout), done.stderr


def tensors_of(folder):
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def set_metadata(adapter, **metadata):
    file = adapter / "adapter_model.safetensors"
    with safe_open(file, "pt") as opened:
        kept = opened.metadata()
    save_file(load_file(file), file, metadata={**kept, **metadata})


@pytest.fixture(scope="module")
def peft_adapter(tiny_model, tmp_path_factory):
    """peft_adapter(case) -> folder: saved by PEFT, everything it trains is moved away from the base."""
    made = {}

    def make(case):
        if case in made:
            return made[case]
        options, config = CASES[case]
        torch.manual_seed(len(made))
        model = get_peft_model(peer(tiny_model(**options)),
                               LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **config))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_" not in name:
                parameter.data += 0.05 * torch.randn_like(parameter)
        folder = tmp_path_factory.mktemp(f"peft-{case}")
        model.save_pretrained(folder)
        set_metadata(folder, **{"qlora.quantization": json.dumps(PLAIN)})
        made[case] = folder
        return folder

    return make


@pytest.fixture(scope="module")
def trained_adapter(bin_dir, tiny_model, tmp_path_factory):
    """trained_adapter(case) -> folder: three steps of qlora-train on a base in NF4 with double quantization."""
    made = {}

    def make(case):
        if case in made:
            return made[case]
        options, config = CASES[case]
        folder = tmp_path_factory.mktemp(f"trained-{case}")
        texts = ["a plant with small flowers", "the house at the river", "to walk slowly, without aim"]
        (folder / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts * 4))
        output = qlora_train(bin_dir, folder, {
            "model": {"path": str(tiny_model(**options))},
            "peft": config,
            "data": {"train": "train.jsonl", "template": "none"},
            "training": {"max_steps": 3, "learning_rate": 0.01, "gradient_accumulation_steps": 2, "sample_rows": 0},
        })
        made[case] = output / "adapter"
        return made[case]

    return make


def refused(bin_dir, model, adapter, output, message, *flags):
    done = run_merge(bin_dir, "--model", model, "--adapter", adapter, "--output", output, *flags)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and re.search(message, done.stderr), done.stderr
    assert "report it" not in done.stderr


def logits_of(model):
    with torch.no_grad():
        return torch.cat([model(torch.tensor([ids])).logits[0] for ids in sequences(model.config.vocab_size)])


def load_strictly(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model
