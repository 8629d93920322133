"""Checkpoints stored in 4 bits, made once for each file of tests, and what is read out of them."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from make_tiny_model import auto_class
from peft_loop import qlora_train
from safetensors.torch import load_file
from test_model_parity import probe, sequences
from test_nf4 import NF4
from transformers import BitsAndBytesConfig

import bitsandbytes.functional as bnb

WIDE = {"hidden": 128, "intermediate": 256}
MODELS = {
    "llama": {**WIDE},
    "llama-bias-bf16-sharded": {**WIDE, "bias": True, "dtype": "bfloat16", "max_shard_size": "300KB"},
    "qwen2-tied-fp16": {**WIDE, "model_type": "qwen2", "tie": True, "dtype": "float16"},
    "qwen3-head-dim": {**WIDE, "model_type": "qwen3", "head_dim": 64},
    "mistral-old-config": {**WIDE, "model_type": "mistral", "old_config": True},
}
# Blocks that run across row ends.
NARROW = {"llama-narrow": {"dtype": "bfloat16"}, "qwen3-odd": {"model_type": "qwen3", "head_dim": 24, "intermediate": 90}}
NESTED, PLAIN = True, False


def run_quantize(bin_dir, *flags):
    command = [bin_dir / "qlora-quantize", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def quantize(bin_dir, model, output, nested=NESTED, **settings):
    settings["bnb_4bit_use_double_quant"] = json.dumps(nested)
    sets = [flag for key, value in settings.items() for flag in ("--set", f"quantization.{key}={value}")]
    done = run_quantize(bin_dir, "--model", model, "--output", output, *sets)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def tensors_of(folder):
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def is_linear(name):
    return name.endswith("_proj.weight")


def state_of(tensors, weight):
    return json.loads(tensors[weight + ".quant_state.bitsandbytes__nf4"].numpy().tobytes())


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def scales_of(tensors, weight):
    """fp32 scales of the blocks, as bitsandbytes decodes them."""
    absmax, state = tensors[weight + ".absmax"], state_of(tensors, weight)
    if "nested_offset" not in state:
        return absmax
    nested = tensors[weight + ".nested_absmax"].repeat_interleave(256)[: len(absmax)]
    return tensors[weight + ".nested_quant_map"][absmax.long()] * nested + torch.tensor(state["nested_offset"])


def exact_values(tensors, weight):
    """code * scale in fp32, in the shape of the matrix."""
    state = state_of(tensors, weight)
    packed = tensors[weight].contiguous().view(torch.uint8).flatten()
    codes = torch.stack([packed >> 4, packed & 15], 1).flatten()
    n = int(np.prod(state["shape"]))
    scales = scales_of(tensors, weight).repeat_interleave(state["blocksize"])[:n]
    return (torch.from_numpy(NF4)[codes[:n].long()] * scales).view(state["shape"])


@pytest.fixture(scope="module")
def quantized(bin_dir, tiny_model, tmp_path_factory):
    """quantized(name, nested, ...) -> (original folder, quantized folder), made once."""
    made = {}

    def make(name, nested=NESTED, **settings):
        key = (name, nested, *settings.items())
        if key not in made:
            original = tiny_model(**{**MODELS, **NARROW}[name])
            output = tmp_path_factory.mktemp(name) / "quantized"
            quantize(bin_dir, original, output, nested, **settings)
            made[key] = original, output
        return made[key]

    return make


def load_strictly(folder):
    model, info = auto_class(config_of(folder)["model_type"]).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    # transformers leaves dense tensors of a stored 4-bit model in the file's dtype, whatever dtype is asked for.
    for parameter in model.parameters():
        if parameter.dtype in (torch.bfloat16, torch.float16) and type(parameter) is torch.nn.Parameter:
            parameter.data = parameter.data.float()
    multiply_dequantized(model)
    return model


def multiply_dequantized(model):
    """Lets every Linear4bit multiply by its weights as bitsandbytes dequantizes them, in fp32. Its own CPU products round
    to bf16 where the processor has units for that, and fail an assertion there where a size is no multiple of 32."""

    def exact(linear):
        values = bnb.dequantize_4bit(linear.weight.data, linear.weight.quant_state).float()
        assert values.shape == (linear.out_features, linear.in_features)
        bias = None if linear.bias is None else linear.bias.float()
        return lambda x: torch.nn.functional.linear(x.float(), values, bias).to(x.dtype)

    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.forward = exact(module)


def save_with_bitsandbytes(folder, output, dtype=torch.float32, **settings):
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **settings)
    model = auto_class(config_of(folder)["model_type"]).from_pretrained(folder, dtype=dtype, quantization_config=settings)
    model.save_pretrained(output, max_shard_size="100KB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(folder / name, output)
    return output


def logits_of(model):
    with torch.no_grad():
        return torch.cat([model(torch.tensor([ids])).logits[0] for ids in sequences(model.config.vocab_size)])


def probe_quantized(bin_dir, tmp_path, folder, nested=NESTED, **settings):
    vocab = config_of(folder)["vocab_size"]
    return probe(bin_dir, tmp_path, model=str(folder), sequences=sequences(vocab), states=True,
                 quantization={"bnb_4bit_use_double_quant": nested, **settings})


def training_run(model, **sections):
    texts = ["a plant with small flowers", "the house at the river", "to walk slowly, without aim", "a word of a day"]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts * 3)
    training = {"max_steps": 4, "learning_rate": 0.01, "gradient_accumulation_steps": 2, "logging_steps": 1,
                "sample_rows": 0}
    return rows, {"model": {"path": str(model)}, "peft": {"target_modules": "all-linear", "r": 4},
                  "data": {"train": "train.jsonl", "template": "none"}, "training": training, **sections}


def train(bin_dir, folder, model, **sections):
    folder.mkdir(exist_ok=True)
    rows, run = training_run(model, **sections)
    (folder / "train.jsonl").write_text(rows)
    return qlora_train(bin_dir, folder, run)


def evaluate(bin_dir, *flags):
    return subprocess.run([bin_dir / "qlora-eval", *map(str, flags)], capture_output=True, text=True, timeout=120)


WEIGHT = "model.layers.1.mlp.up_proj.weight"
STATE = WEIGHT + ".quant_state.bitsandbytes__nf4"
