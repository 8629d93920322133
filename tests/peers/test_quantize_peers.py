"""transformers and bitsandbytes read what qlora-quantize writes, and our programs what bitsandbytes writes.

Logits of two fp32 implementations on the same dequantized weights: 1e-4 of the largest. Widths are multiples of the
blocksize where bitsandbytes dequantizes whole matrices: its CPU kernel (0.50.2) reads wrong scales where a block crosses
a row's end.
"""

import json
import shutil

import pytest
import torch
from merged_folders import merge, set_metadata
from peft import LoraConfig, get_peft_model
from quantized_folders import (
    MODELS,
    NARROW,
    NESTED,
    PLAIN,
    exact_values,
    is_linear,
    load_strictly,
    logits_of,
    probe_quantized,
    quantized,
    save_with_bitsandbytes,
    state_of,
    tensors_of,
)
from safetensors.torch import save_file
from test_model_parity import close_to_largest, peer

import bitsandbytes.functional as bnb

# --- transformers and bitsandbytes read it -----------------------------------------------------------------------------


@pytest.mark.parametrize("nested,blocksize", [(NESTED, 64), (PLAIN, 64), (NESTED, 128)])
@pytest.mark.parametrize("name", MODELS)
def test_transformers_logits_are_ours(name, nested, blocksize, quantized, bin_dir, tmp_path):
    _, output = quantized(name, nested, bnb_4bit_blocksize=blocksize)
    ours = probe_quantized(bin_dir, tmp_path, output, nested, bnb_4bit_blocksize=blocksize)
    model = load_strictly(output)
    layer = model.get_submodule("model.layers.1.mlp.up_proj")
    assert type(layer).__name__ == "Linear4bit" and layer.weight.quant_state.nested == nested
    theirs = logits_of(model)
    print(f"{name}: worst {(ours['logits'] - theirs).abs().max() / theirs.abs().max():.2g} of the largest")
    close_to_largest(ours["logits"], theirs, 1e-4)


@pytest.mark.parametrize("name", NARROW)
def test_bitsandbytes_decodes_blocks_across_rows_to_our_bits(name, quantized, bin_dir, tmp_path):
    _, output = quantized(name)
    ours, stored = probe_quantized(bin_dir, tmp_path, output), tensors_of(output)
    for weight in filter(is_linear, stored):
        parts = {key.removeprefix(weight + "."): value for key, value in stored.items() if key.startswith(weight + ".")}
        state = bnb.QuantState.from_dict(parts, torch.device("cpu"))
        shape, state.shape = state.shape, torch.Size([1, state.shape.numel()])
        values = bnb.dequantize_4bit(stored[weight], state).view(shape)
        assert torch.equal(values, ours["dequantized." + weight]), weight


# --- we read what bitsandbytes wrote -----------------------------------------------------------------------------------

SAVED = {
    "nested": {"bnb_4bit_use_double_quant": True},
    "plain": {},
    "storage-bf16": {"bnb_4bit_use_double_quant": True, "bnb_4bit_quant_storage": torch.bfloat16},
    "storage-fp32": {"bnb_4bit_quant_storage": torch.float32},
    "skips": {"llm_int8_skip_modules": ["lm_head", "model.layers.0.mlp", "v_proj"]},
}


@pytest.mark.parametrize("case", SAVED)
@pytest.mark.parametrize("name", ["llama", "qwen2-tied-fp16"])
def test_a_folder_of_bitsandbytes_gives_its_logits(name, case, tiny_model, bin_dir, tmp_path):
    output = save_with_bitsandbytes(tiny_model(**MODELS[name]), tmp_path / "saved", **SAVED[case])
    ours = probe_quantized(bin_dir, tmp_path, output, "bnb_4bit_use_double_quant" in SAVED[case])
    stored = tensors_of(output)
    quantized = [weight for weight in filter(is_linear, stored) if weight + ".absmax" in stored]
    assert len(quantized) == (14 - 5 if case == "skips" else 14) or case == "skips"
    for weight in filter(is_linear, stored):
        exact = exact_values(stored, weight) if weight in quantized else stored[weight].float()
        assert torch.equal(ours["dequantized." + weight], exact), weight
    close_to_largest(ours["logits"], logits_of(load_strictly(output)), 1e-4)


def test_a_bf16_folder_of_bitsandbytes_is_read_to_the_bit(tiny_model, bin_dir, tmp_path):
    """Its states say bfloat16, to which bitsandbytes rounds; fp32 products of ours see code * scale unrounded."""
    output = save_with_bitsandbytes(tiny_model(**MODELS["llama-bias-bf16-sharded"]), tmp_path / "saved",
                                    dtype=torch.bfloat16)
    ours, stored = probe_quantized(bin_dir, tmp_path, output, PLAIN), tensors_of(output)
    for weight in filter(is_linear, stored):
        assert state_of(stored, weight)["dtype"] == "bfloat16"
        assert torch.equal(ours["dequantized." + weight], exact_values(stored, weight)), weight
    close_to_largest(ours["logits"], logits_of(load_strictly(output)), 2e-2)


def test_a_map_from_another_machine_is_used_as_it_is(quantized, bin_dir, tmp_path):
    _, output = quantized("llama")
    other = tmp_path / "other"
    shutil.copytree(output, other)
    tensors = tensors_of(other)
    for key, value in tensors.items():
        if key.endswith("nested_quant_map"):
            tensors[key] = torch.where(value.abs() > 0.5, torch.nextafter(value, torch.tensor(0.0)), value)
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    ours = probe_quantized(bin_dir, tmp_path, other)
    for weight in filter(is_linear, tensors):
        assert torch.equal(ours["dequantized." + weight], exact_values(tensors, weight)), weight
    assert not torch.equal(exact_values(tensors, weight), exact_values(tensors_of(output), weight))


def test_what_bitsandbytes_left_dense_is_merged_as_it_is(tiny_model, bin_dir, tmp_path):
    base = tiny_model(**MODELS["llama"])
    folder = save_with_bitsandbytes(base, tmp_path / "saved", **SAVED["skips"])
    torch.manual_seed(1)
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
    get_peft_model(peer(base), lora).save_pretrained(tmp_path / "adapter")
    set_metadata(tmp_path / "adapter", **{"qlora.quantization": json.dumps({"bnb_4bit_use_double_quant": False})})
    merge(bin_dir, folder, tmp_path / "adapter", tmp_path / "merged", "--base", "dequantized", "--dtype", "float32")
    stored, merged, lora = (tensors_of(each) for each in (folder, tmp_path / "merged", tmp_path / "adapter"))
    up = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(merged[up], stored[up])
    v = "model.layers.1.self_attn.v_proj"
    a, b = (lora[f"base_model.model.{v}.lora_{part}.weight"] for part in "AB")
    torch.testing.assert_close(merged[v + ".weight"], stored[v + ".weight"] + 4 * (b @ a))  # lora_alpha 8 over r 2
