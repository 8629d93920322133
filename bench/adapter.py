"""Writes the adapter that every entrant starts from, in PEFT's format: A uniform as PEFT's, B zero.

adapter.py --model DIR --output DIR
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from cells import ALPHA, RANK
from limits import read_shape
from safetensors.numpy import save_file


def adapter_tensors(shape, rank, seed=7):
    generator = np.random.default_rng(seed)
    tensors = {}
    for layer in range(shape.layers):
        for name, inputs, outputs in shape.layer_linears():
            key = f"base_model.model.model.layers.{layer}.{name}"
            # kaiming_uniform_ with a = sqrt(5) is a bound of 1 / sqrt(inputs).
            bound = 1 / math.sqrt(inputs)
            values = generator.uniform(-bound, bound, (rank, inputs)).astype(np.float32)
            tensors[f"{key}.lora_A.weight"] = values
            tensors[f"{key}.lora_B.weight"] = np.zeros((outputs, rank), np.float32)
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    shape = read_shape(options.model)
    options.output.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(options.model),
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name, _, _ in shape.layer_linears()}),
    }
    (options.output / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(
        adapter_tensors(shape, RANK), options.output / "adapter_model.safetensors", {"format": "pt"}
    )


if __name__ == "__main__":
    main()
