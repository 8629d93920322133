"""Writes rope_golden.json: what transformers makes of the rotary embeddings of a config.json.

.venv/bin/python -B tests/models/rope_golden.py
"""

import copy
import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "vocab_size": 32,
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
DIVISORS = {"short_factor": [1.0, 1.1, 1.25, 1.5, 2.0, 2.5, 3.0, 4.5], "long_factor": [1, 1.7, 3, 5, 9, 14.5, 20, 33]}
SIX = {name: values[:6] for name, values in DIVISORS.items()}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e5}

CASES = {
    "llama": {},
    "llama-theta": {"rope_theta": 5e5},
    "llama-linear": {"rope_scaling": {"type": "linear", "factor": 2.5}, "rope_theta": 20000},
    "llama-replaced": {
        "rope_scaling": {"type": "linear", "factor": 2.5},
        "rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
    },
    "llama-dynamic": {"rope_scaling": {"type": "dynamic", "factor": 2.3}, "max_position_embeddings": 2049},
    "llama-llama3": {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 64, "rope_theta": 5e5}},
    "llama-llama3-original-beside": {
        "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64},
        "original_max_position_embeddings": 128,
    },
    "llama-llama3-no-original": {"rope_scaling": LLAMA3},
    "llama-yarn": {"rope_scaling": YARN},
    "llama-yarn-original": {
        "rope_parameters": {**YARN, "original_max_position_embeddings": 64, "beta_fast": 8, "beta_slow": 2.0}
    },
    "llama-yarn-not-truncated": {
        "rope_parameters": {**YARN, "original_max_position_embeddings": 100, "truncate": False, "beta_fast": 0}
    },
    "llama-yarn-mscale": {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.0}},
    "llama-yarn-one-mscale": {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0}},
    "llama-yarn-attention-factor": {"rope_parameters": {**YARN, "attention_factor": 1.25, "mscale": 0.7}},
    "llama-yarn-null-factor": {
        "rope_parameters": {**YARN, "factor": None, "original_max_position_embeddings": 96}
    },
    "llama-yarn-small-factor": {"rope_parameters": {**YARN, "factor": 0.5}},
    "llama-yarn-one-angle": {"rope_parameters": {**YARN, "original_max_position_embeddings": 5}},
    "llama-longrope": {
        "rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 64, **DIVISORS}
    },
    "llama-longrope-factor": {
        "rope_parameters": {"rope_type": "longrope", "factor": 3.0, **DIVISORS},
        "original_max_position_embeddings": 32,
    },
    "llama-longrope-attention-factor": {
        "rope_parameters": {"rope_type": "longrope", "attention_factor": 1.5, "factor": 2.0, **DIVISORS}
    },
    "smollm3-yarn": {"rope_scaling": {"type": "yarn", "factor": 2.0}},
    "phi3": {},
    "phi3-share": {"partial_rotary_factor": 0.75},
    # transformers fails where the section of an "su" has none.
    "phi3-su": {
        "rope_scaling": {"type": "su", "original_max_position_embeddings": 32, **DIVISORS},
        "original_max_position_embeddings": 64,
    },
    "phi3-yarn": {
        "rope_scaling": {"type": "yarn", **SIX},
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 64,
    },
    "phi3-original-in-section": {
        "rope_scaling": {"type": "longrope", "original_max_position_embeddings": 64, **DIVISORS},
        "max_position_embeddings": 5000,
    },
}


def ropes_of(config):
    kwargs = copy.deepcopy(config)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kwargs.pop("model_type"), **kwargs))
    rotary = next(module for name, module in model.named_modules() if name.endswith("rotary_emb"))
    out = {}
    for kind in ("full_attention", "sliding_attention") if hasattr(rotary, "full_attention_inv_freq") else ("",):
        prefix = kind and kind + "_"
        arguments = (kind,) if kind else ()
        rope = {"attention_factor": getattr(rotary, prefix + "attention_scaling")}
        for name, tokens in (("short", 1), ("long", 100000)):
            # Of a dynamic rope only what it is at the start.
            if name == "short" or "dynamic" not in getattr(rotary, "rope_type", ""):
                rotary(torch.zeros(1), torch.arange(tokens - 1, tokens)[None], *arguments)
            rope[name] = getattr(rotary, prefix + "inv_freq").tolist()
        if rope["long"] == rope["short"]:
            del rope["long"]
        out[kind or "all"] = rope
    return out


def main():
    golden = []
    for name, keys in CASES.items():
        config = {"model_type": name.split("-")[0], **SIZES, **keys}
        golden.append({"name": name, "config": config, "ropes": ropes_of(config)})
    text = ",\n".join(json.dumps(case) for case in golden)
    (Path(__file__).parent / "rope_golden.json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
