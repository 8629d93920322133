"""qlora-quantize: what it writes, byte for byte, against the rule and transformers, and what it refuses.

Codes and scales are compared bit for bit.
"""

import json
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from quantized_folders import (
    MODELS,
    NARROW,
    NESTED,
    PLAIN,
    WEIGHT,
    config_of,
    is_linear,
    load_strictly,
    logits_of,
    probe_quantized,
    quantize,
    quantized,
    run_quantize,
    scales_of,
    state_of,
    tensors_of,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_model_parity import close_to_largest
from test_nf4 import NF4, pivot_search, reference_nf4
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import bitsandbytes.functional as bnb

# --- what is written ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested,blocksize", [(NESTED, 64), (PLAIN, 64), (NESTED, 32), (PLAIN, 256)])
@pytest.mark.parametrize("name", [*MODELS, *NARROW])
def test_every_byte_follows_the_rule(name, nested, blocksize, quantized):
    folder, output = quantized(name, nested, bnb_4bit_blocksize=blocksize)
    original, stored = tensors_of(folder), tensors_of(output)
    expected_names = set()
    for weight, value in original.items():
        expected_names.add(weight)
        if not is_linear(weight):
            assert stored[weight].dtype == value.dtype and torch.equal(stored[weight], value), weight
            continue
        packed, absmax, _ = reference_nf4(value.float().flatten().numpy(), blocksize)
        np.testing.assert_array_equal(stored[weight].numpy(), packed[:, None])
        assert stored[weight + ".quant_map"].numpy().tobytes() == NF4.tobytes()
        state = {"quant_type": "nf4", "blocksize": blocksize, "dtype": "float32", "shape": list(value.shape)}
        expected_names |= {weight + "." + part for part in ("absmax", "quant_map", "quant_state.bitsandbytes__nf4")}
        if nested:
            expected_names |= {weight + ".nested_absmax", weight + ".nested_quant_map"}
            offset = state_of(stored, weight)["nested_offset"]
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
            assert offset == np.float32(offset) and abs(offset - absmax.astype(np.float64).mean()) <= 1e-7 * abs(offset)
            table = bnb.create_dynamic_map(signed=True).numpy()
            np.testing.assert_array_equal(stored[weight + ".nested_quant_map"].numpy(), table)
            difference = absmax - np.float32(offset)
            groups = [difference[begin : begin + 256] for begin in range(0, len(absmax), 256)]
            largest = np.array([np.abs(group).max() for group in groups])
            np.testing.assert_array_equal(stored[weight + ".nested_absmax"].numpy(), largest)
            codes = np.concatenate([pivot_search(table, g * (np.float32(1) / m)) for g, m in zip(groups, largest)])
            np.testing.assert_array_equal(stored[weight + ".absmax"].numpy(), codes)
        else:
            np.testing.assert_array_equal(stored[weight + ".absmax"].numpy(), absmax)
        assert stored[weight + ".quant_state.bitsandbytes__nf4"].numpy().tobytes().decode() == json.dumps(state)
    assert set(stored) == expected_names


@pytest.mark.parametrize("nested", [NESTED, PLAIN])
@pytest.mark.parametrize("name", ["llama", "llama-bias-bf16-sharded", "qwen2-tied-fp16"])
def test_bytes_and_configuration_are_those_of_transformers(name, nested, quantized, tmp_path):
    """All of it without double quantization; with it bitsandbytes' CPU path rounds the scales' codes in another way."""
    folder, output = quantized(name, nested)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=nested)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=settings)
    model.save_pretrained(tmp_path)
    theirs, ours = tensors_of(tmp_path), tensors_of(output)
    theirs.pop("lm_head.weight", None) if config_of(folder)["tie_word_embeddings"] else None
    assert set(ours) == set(theirs)
    compared = 0
    for key, value in theirs.items():
        if nested and key.endswith((".absmax", ".nested_absmax", "bitsandbytes__nf4")):
            continue
        found = ours[key] if ours[key].dtype == value.dtype else ours[key].float()
        assert torch.equal(found, value), key
        compared += 1
    assert compared >= 2 * len([key for key in ours if is_linear(key)])
    for weight in filter(is_linear, ours):
        mine, other = state_of(ours, weight), state_of(theirs, weight)
        if nested:
            assert mine.pop("nested_offset") == pytest.approx(other.pop("nested_offset"), rel=3e-7)
            assert torch.allclose(scales_of(ours, weight), scales_of(theirs, weight), rtol=0.02)
        assert mine == other
    assert config_of(output)["quantization_config"] == config_of(tmp_path)["quantization_config"]


@pytest.mark.parametrize("name", ["llama-bias-bf16-sharded", "qwen2-tied-fp16"])
def test_the_layout_and_the_other_files_stay(name, bin_dir, tiny_model, tmp_path):
    folder = tiny_model(**MODELS[name])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = quantize(bin_dir, folder, tmp_path / "a")
    quantize(bin_dir, folder, tmp_path / "b")
    out = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert out == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}, "the same bytes again"
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(out) == set(before)
    for file, content in out.items():
        if file not in ("config.json", "model.safetensors.index.json") and not file.endswith(".safetensors"):
            assert content == before[file], file
    config = config_of(tmp_path / "a")
    config.pop("quantization_config")
    assert config == config_of(folder)
    places, total = {}, 0
    for file in sorted((tmp_path / "a").glob("*.safetensors")):
        tensors = load_file(file)
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        save_file(tensors, tmp_path / "again.safetensors", metadata=metadata)
        assert len(file.read_bytes()) == (tmp_path / "again.safetensors").stat().st_size
        header = lambda path: json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
        assert header(file) == header(tmp_path / "again.safetensors"), "in the order of the safetensors package"
        places |= {key: file.name for key in tensors}
        total += sum(tensor.nbytes for tensor in tensors.values())
        shard = load_file(folder / file.name)
        assert set(shard) <= set(tensors), "each weight stays in its file"
    assert result["tensors"] == len(places) and result["bytes_after"] == total
    assert result["quantized"] == len([key for key in places if is_linear(key)])
    assert result["bytes_before"] == sum(tensor.nbytes for tensor in tensors_of(folder).values())
    if "model.safetensors.index.json" in out:
        index = json.loads(out["model.safetensors.index.json"])
        assert index["weight_map"] == places and index["metadata"]["total_size"] == total


# --- what cannot be quantized ------------------------------------------------------------------------------------------


def test_what_cannot_be_quantized_is_refused_and_leaves_nothing(quantized, bin_dir, tiny_model, tmp_path):
    folder, output = quantized("llama")
    damaged, full = tmp_path / "damaged", tmp_path / "full"
    shutil.copytree(folder, damaged)
    tensors = tensors_of(folder)
    tensors[WEIGHT][5, 7] = float("nan")
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    dense = tmp_path / "dense"
    shutil.copytree(folder, dense)
    tensors = tensors_of(folder)
    tensors["model.norm.weight"][3] = float("inf")
    save_file(tensors, dense / "model.safetensors", metadata={"format": "pt"})
    full.mkdir()
    (full / "file").write_text("")
    out = tmp_path / "out"
    for model, place, sets, message in (
        (output, out, [], "is stored in 4 bits already; give the original model"),
        (damaged, out, [], rf"{WEIGHT} holds a value that is not finite \(row 5, column 7\)"),
        (damaged, out, ["bnb_4bit_use_double_quant=false"], "row 5, column 7"),
        (dense, out, [], r"model\.norm\.weight holds a value that is not finite"),
        (folder, full, [], "is not empty; choose another folder"),
        (folder, full / "file", [], "is a file; give a new folder"),
        (folder, out, ["load_in_4bit=false"], "load_in_4bit: false leaves nothing to do"),
        (folder, out, ["bnb_4bit_blocksize=48"], "bnb_4bit_blocksize: must be .*power of two"),
        (folder, out, ["bnb_4bit_quant_type=fp4"], "bnb_4bit_quant_type"),
        (folder, out, ["blocksize=64"], "blocksize: unknown key"),
        (tmp_path / "nowhere", out, [], "nowhere"),
    ):
        flags = [flag for text in sets for flag in ("--set", "quantization." + text)]
        done = run_quantize(bin_dir, "--model", model, "--output", place, *flags)
        assert done.returncode == 2 and done.stdout == "" and re.search(message, done.stderr), done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"damaged", "dense", "full"}


def test_the_compute_dtype_is_written(bin_dir, tiny_model, tmp_path):
    quantize(bin_dir, tiny_model(**MODELS["llama"]), tmp_path / "out", bnb_4bit_compute_dtype="bfloat16")
    assert config_of(tmp_path / "out")["quantization_config"]["bnb_4bit_compute_dtype"] == "bfloat16"
    assert state_of(tensors_of(tmp_path / "out"), WEIGHT)["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").get_submodule(
        WEIGHT.removesuffix(".weight")).compute_dtype == torch.bfloat16


# --- the real model ----------------------------------------------------------------------------------------------------


def peak_memory(command):
    """Largest resident set in bytes, mapped pages counted."""
    # By way of a small process: a child's figure begins with the size of the process that started it.
    script = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
              "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    done = subprocess.run([sys.executable, "-c", script, *map(str, command)], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024


def test_smollm2_is_quantized_by_streaming_and_loads_fast(smollm2, bin_dir, tiny_model, tmp_path):
    command = [bin_dir / "qlora-quantize", "--output"]
    small = peak_memory([*command, tmp_path / "tiny", "--model", tiny_model()])
    begin = time.perf_counter()
    large = peak_memory([*command, tmp_path / "smollm2", "--model", smollm2])
    quantizing = time.perf_counter() - begin
    size = (smollm2 / "model.safetensors").stat().st_size
    largest = max(tensor.nbytes for key, tensor in tensors_of(smollm2).items())
    print(f"qlora-quantize: {quantizing:.2f} s, {(large - small) / 1e6:.0f} MB more than a tiny model; the file has "
          f"{size / 1e6:.0f} MB, its largest tensor {largest / 1e6:.0f} MB")
    assert large - small < largest * 1.5 + 16e6 < size
    figures = {}
    for name, folder in (("original", smollm2), ("stored", tmp_path / "smollm2")):
        runs = [json.loads(subprocess.run([bin_dir / "load_memory", folder], capture_output=True, text=True,
                                          check=True).stdout) for _ in range(5)]
        figures[name] = {key: min(run[key] for run in runs) for key in ("seconds", "linear_seconds", "peak", "promise")}
    assert figures["stored"]["peak"] <= figures["stored"]["promise"]
    ratio = lambda key: figures["original"][key] / figures["stored"][key]
    print(f"loading: {figures['stored']['seconds']:.3f} s from 4 bits, {figures['original']['seconds']:.3f} s quantizing, "
          f"{ratio('seconds'):.1f} times faster; the linears alone {figures['stored']['linear_seconds']:.3f} s and "
          f"{figures['original']['linear_seconds']:.3f} s, {ratio('linear_seconds'):.1f} times")
    ours = probe_quantized(bin_dir, tmp_path, tmp_path / "smollm2")
    close_to_largest(ours["logits"], logits_of(load_strictly(tmp_path / "smollm2")), 1e-4)
