"""Broken 4-bit checkpoints are refused by the name of what is wrong."""

import json
import re
import shutil

import pytest
import torch
from quantized_folders import (
    PLAIN,
    STATE,
    WEIGHT,
    config_of,
    evaluate,
    quantized,
    state_of,
    tensors_of,
)
from safetensors.torch import save_file

# --- broken checkpoints ------------------------------------------------------------------------------------------------

def drop(key):
    return lambda tensors, config: tensors.pop(key)


def put(key, change):
    def spoil(tensors, config):
        tensors[key] = change(tensors[key]).contiguous()
    return spoil


def text_tensor(text):
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def state(**changes):
    """Changes entries of the JSON text; None removes one."""
    def spoil(tensors, config):
        entries = {**state_of(tensors, WEIGHT), **changes}
        tensors[STATE] = text_tensor(json.dumps({key: value for key, value in entries.items() if value is not None}))
    return spoil


def section(**changes):
    def spoil(tensors, config):
        config["quantization_config"] |= changes
    return spoil


def rename_to_fp4(tensors, config):
    tensors[STATE.replace("nf4", "fp4")] = tensors.pop(STATE)


def make_dense(tensors, config):
    for key in [key for key in tensors if key.startswith(WEIGHT)]:
        tensors.pop(key)
    tensors[WEIGHT] = torch.zeros(256, 128)


def set_value(index, value):
    def change(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[index] = value
        return tensor
    return change


BROKEN = {
    "no codes": (drop(WEIGHT), rf"{WEIGHT}: is missing"),
    "no absmax": (drop(WEIGHT + ".absmax"), r"up_proj\.weight\.absmax: is missing"),
    "no code-book": (drop(WEIGHT + ".quant_map"), r"weight\.quant_map: is missing"),
    "no state": (drop(STATE), r"bitsandbytes__nf4: is missing"),
    "no nested scales": (drop(WEIGHT + ".nested_absmax"), r"weight\.nested_absmax: is missing"),
    "no nested map": (drop(WEIGHT + ".nested_quant_map"), r"weight\.nested_quant_map: is missing"),
    "short codes": (put(WEIGHT, lambda t: t[:-1]), r"up_proj\.weight: has shape \[16383, 1\], .* have \[16384, 1\]"),
    "flat codes": (put(WEIGHT, lambda t: t.flatten()), r"up_proj\.weight: has shape \[16384\]"),
    "float codes": (put(WEIGHT, lambda t: t.float()), r"up_proj\.weight: has dtype F32, .*bnb_4bit_quant_storage .* U8"),
    "short absmax": (put(WEIGHT + ".absmax", lambda t: t[1:]), r"absmax: has shape \[511\], must have \[512\]"),
    "plain absmax": (put(WEIGHT + ".absmax", lambda t: t.float()), r"absmax: has dtype F32, must be U8"),
    "half nested scales": (put(WEIGHT + ".nested_absmax", lambda t: t.half()), r"nested_absmax: has dtype F16, must be F32"),
    "long nested scales": (put(WEIGHT + ".nested_absmax", lambda t: t.repeat(2)), r"nested_absmax: has shape \[4\], .*\[2\]"),
    "nan nested scale": (put(WEIGHT + ".nested_absmax", set_value(1, float("nan"))), r"nested_absmax holds a scale .*finite"),
    "another code-book": (put(WEIGHT + ".quant_map", set_value(3, 0.25)), r"quant_map: is not the code-book of NF4 \(entry 3"),
    "another nested map": (put(WEIGHT + ".nested_quant_map", set_value(200, 0.5)), r"nested_quant_map: .*\(entry 200"),
    "nan nested map": (put(WEIGHT + ".nested_quant_map", set_value(7, float("nan"))), r"nested_quant_map: .*\(entry 7"),
    "fp4": (rename_to_fp4, r"bitsandbytes__fp4: holds fp4 weights; only nf4"),
    "type fp4": (state(quant_type="fp4"), r'quant_type is "fp4", must be "nf4"'),
    "no type": (state(quant_type=None), r"has no quant_type"),
    "odd blocksize": (state(blocksize=48), r"blocksize is 48, must be a power of two"),
    "another blocksize": (state(blocksize=128), r"absmax: has shape \[512\], must have \[256\]"),
    "huge blocksize": (state(blocksize=2**70), r"blocksize is .*, must be"),
    "no blocksize": (state(blocksize=None), r"has no blocksize"),
    "another shape": (state(shape=[128, 256]), r"shape is \[128,256\], config.json asks for \[256,128\]"),
    "no shape": (state(shape=None), r"has no shape"),
    "another dtype": (state(dtype="float64"), r'dtype is "float64", must be float32, float16 or bfloat16'),
    "nested blocksize": (state(nested_blocksize=64), r"nested_blocksize is 64, must be 256"),
    "nested dtype": (state(nested_dtype="float16"), r'nested_dtype is "float16", must be "float32"'),
    "no offset": (state(nested_offset=None), r"has no nested_offset"),
    "offset text": (state(nested_offset="0.1"), r'nested_offset is "0.1", must be a number'),
    "offset too large": (state(nested_offset=1e300), r"nested_offset is 1e\+300, must be a number"),
    "unknown entry": (state(scale=2), r'has an unknown entry "scale"'),
    "state is no JSON": (put(STATE, lambda t: t[:-1]), r"bitsandbytes__nf4"),
    "state is a list": (put(STATE, lambda t: text_tensor("[1]")), r"must hold a JSON object"),
    "one dense matrix": (make_dense, r"up_proj\.weight: is stored dense, although .*llm_int8_skip_modules"),
    "no quantization_config": (lambda tensors, config: config.pop("quantization_config"), r"up_proj\.weight: has dtype U8"),
    "skipped but stored": (section(llm_int8_skip_modules=["up_proj"]), r"up_proj\.weight: has dtype U8"),
    "pattern": (section(llm_int8_skip_modules=["up_.*"]), r'llm_int8_skip_modules: "up_\.\*" is a pattern'),
    "plain by the config": (section(bnb_4bit_use_double_quant=False), r"nested_absmax: is there, although"),
    "storage by the config": (section(bnb_4bit_quant_storage="bfloat16"), r"has dtype U8, .*asks for BF16"),
    "fp4 by the config": (section(bnb_4bit_quant_type="fp4"), r"bnb_4bit_quant_type: 'fp4' is not supported"),
    "8 bits": (section(load_in_8bit=True), r"8-bit weights are not supported"),
    "another method": (section(quant_method="gptq"), r"quant_method: 'gptq' is not supported"),
    "unknown setting": (section(bnb_4bit_rotation="hadamard"), r"bnb_4bit_rotation: is not known"),
    "a state too many": (lambda tensors, config: tensors.update({"lm_head.weight.absmax": torch.zeros(4)}),
                         r"lm_head\.weight\.absmax: is not a parameter"),
}


@pytest.fixture
def spoiled(quantized, bin_dir, tmp_path):
    def make(*faults):
        _, output = quantized("llama")
        folder = tmp_path / "spoiled"
        shutil.copytree(output, folder)
        tensors, config = tensors_of(folder), config_of(folder)
        for fault in faults:
            fault(tensors, config)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config))
        (tmp_path / "rows.jsonl").write_text('{"text": "a plant with small flowers"}\n')
        return evaluate(bin_dir, "--model", folder, "--data", tmp_path / "rows.jsonl", "--template", "none")

    return make


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_checkpoint_is_refused_by_name(name, spoiled):
    fault, message = BROKEN[name]
    done = spoiled(fault)
    assert done.returncode == 2, (done.returncode, done.stderr, done.stdout)
    assert done.stdout == "" and re.search(message, done.stderr), done.stderr


def test_a_damaged_plain_scale_is_refused(quantized, bin_dir, tmp_path):
    _, output = quantized("llama", PLAIN)
    shutil.copytree(output, tmp_path / "spoiled")
    tensors = tensors_of(output)
    tensors[WEIGHT + ".absmax"][3] = float("inf")
    save_file(tensors, tmp_path / "spoiled" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "rows.jsonl").write_text('{"text": "a plant with small flowers"}\n')
    done = evaluate(bin_dir, "--model", tmp_path / "spoiled", "--data", tmp_path / "rows.jsonl", "--template", "none")
    assert done.returncode == 2 and re.search(r"up_proj\.weight\.absmax holds a scale .*finite", done.stderr)


def test_all_faults_come_together(spoiled):
    other = "model.layers.0.self_attn.q_proj.weight"
    done = spoiled(drop(other + ".absmax"), state(blocksize=48, quant_type="fp4"), drop("model.norm.weight"))
    assert done.returncode == 2
    for message in (f"{other}.absmax: is missing", "blocksize is 48", 'quant_type is "fp4"', "model.norm.weight: is missing"):
        assert message in done.stderr, done.stderr


def test_blocksizes_must_agree(quantized, spoiled):
    _, other = quantized("llama", bnb_4bit_blocksize=128)
    layer = {key: value for key, value in tensors_of(other).items() if key.startswith(WEIGHT)}
    done = spoiled(lambda tensors, config: tensors.update(layer))
    assert done.returncode == 2 and f"{WEIGHT}: has blocksize 128, " in done.stderr
