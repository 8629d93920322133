"""qlora-quantize against the rule, bitsandbytes and transformers, and every program on checkpoints stored in 4 bits.

Logits of two fp32 implementations on the same dequantized weights: 1e-4 of the largest. Codes, scales, losses of two runs of
ours and merged weights are compared bit for bit. Widths are multiples of the blocksize where bitsandbytes computes: its
CPU kernel (0.50.2) reads wrong scales where a block crosses a row's end.
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
from peft_loop import qlora_train
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_model_parity import close_to_largest, probe, sequences
from test_nf4 import NF4, pivot_search, reference_nf4
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

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


# --- transformers and bitsandbytes read it -----------------------------------------------------------------------------


def load_strictly(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
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


def logits_of(model):
    """Of sequences of at least two tokens: for one, bitsandbytes takes another kernel."""
    with torch.no_grad():
        return torch.cat([model(torch.tensor([ids])).logits[0] for ids in wide_sequences(model.config.vocab_size)])


def wide_sequences(vocab):
    return [ids for ids in sequences(vocab) if len(ids) > 1]


def probe_quantized(bin_dir, tmp_path, folder, nested=NESTED, **settings):
    vocab = config_of(folder)["vocab_size"]
    return probe(bin_dir, tmp_path, model=str(folder), sequences=wide_sequences(vocab), states=True,
                 quantization={"bnb_4bit_use_double_quant": nested, **settings})


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


def save_with_bitsandbytes(folder, output, dtype=torch.float32, **settings):
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **settings)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=config)
    model.save_pretrained(output, max_shard_size="100KB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(folder / name, output)
    return output


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


# --- the programs on it ------------------------------------------------------------------------------------------------


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


def losses(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


def adapter_file(output):
    return output / "adapter" / "adapter_model.safetensors"


@pytest.mark.parametrize("name,settings", [("llama-narrow", {}), ("qwen2-tied-fp16", {}),
                                           ("llama-narrow", {"bnb_4bit_use_double_quant": False,
                                                             "bnb_4bit_blocksize": 128}),
                                           ("llama", {"bnb_4bit_compute_dtype": "bfloat16"})])
def test_training_from_the_quantized_folder_is_the_same_to_the_bit(name, settings, quantized, bin_dir, tmp_path):
    written = {key: json.dumps(value).strip('"') for key, value in settings.items()}
    nested = json.loads(written.pop("bnb_4bit_use_double_quant", "true"))
    folder, output = quantized(name, nested, **written)
    original = train(bin_dir, tmp_path / "original", folder, quantization=settings)
    # Nothing said, or all of it said again; the compute dtype is the run's own.
    compute = {key: value for key, value in settings.items() if key == "bnb_4bit_compute_dtype"}
    for i, section in enumerate((compute, settings)):
        again = train(bin_dir, tmp_path / f"stored{i}", output, quantization=section)
        assert losses(again) == losses(original) and len(losses(again)) >= 4
        found, expected = load_file(adapter_file(again)), load_file(adapter_file(original))
        assert set(found) == set(expected)
        for key, value in expected.items():
            assert torch.equal(found[key], value), key
    resolved = json.loads((again / "run_config.json").read_text())["quantization"]
    assert resolved == json.loads((original / "run_config.json").read_text())["quantization"]


def evaluate(bin_dir, *flags):
    return subprocess.run([bin_dir / "qlora-eval", *map(str, flags)], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def trained(quantized, bin_dir, tmp_path_factory):
    """Original, its quantized folder, and the runs on each."""
    folder, output = quantized("llama-bias-bf16-sharded")
    base = tmp_path_factory.mktemp("trained")
    return folder, output, train(bin_dir, base / "a", folder), train(bin_dir, base / "b", output)


def test_adapters_of_the_original_and_of_its_4_bit_form_fit_both(trained, bin_dir):
    folder, output, from_original, from_stored = trained
    data = from_original.parent / "train.jsonl"
    results = set()
    for model in (folder, output):
        for run in (from_original, from_stored):
            done = evaluate(bin_dir, "--model", model, "--adapter", run / "adapter", "--data", data, "--template", "none")
            assert done.returncode == 0, done.stderr
            results.add(done.stdout)
    assert len(results) == 1, "the same weights"
    with safe_open(adapter_file(from_stored), "pt") as opened:
        metadata = opened.metadata()
    with safe_open(adapter_file(from_original), "pt") as opened:
        assert metadata["qlora.original"] == opened.metadata()["qlora.base"] != metadata["qlora.base"]
    by_config = evaluate(bin_dir, "--config", from_stored.parent / "run.json", "--data", data)
    assert by_config.returncode == 2 and "data.eval" in by_config.stderr


def test_an_adapter_of_another_base_is_refused(trained, quantized, bin_dir):
    _, output, run, _ = trained
    _, other = quantized("llama")
    flags = ["--adapter", run / "adapter", "--data", run.parent / "train.jsonl", "--template", "none"]
    done = evaluate(bin_dir, "--model", other, *flags)
    assert done.returncode == 2 and "was trained on another base" in done.stderr


def merge(bin_dir, *flags):
    return subprocess.run([bin_dir / "qlora-merge", *map(str, flags)], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_merging_onto_4_bit_weights_is_merging_onto_the_dequantized_original(dtype, trained, bin_dir, tmp_path):
    folder, output, from_original, from_stored = trained
    for name, model, run in (("a", folder, from_original), ("b", output, from_stored), ("c", output, from_original)):
        done = merge(bin_dir, "--model", model, "--adapter", run / "adapter", "--output", tmp_path / name, "--base",
                     "dequantized", "--dtype", dtype)
        assert done.returncode == 0, done.stderr
    expected = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    for name in "bc":
        found = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        assert set(found) == set(expected)
        for file, content in expected.items():
            if file != "config.json":  # laid out anew
                assert found[file] == content, file
        assert config_of(tmp_path / name) == config_of(tmp_path / "a")
    done = merge(bin_dir, "--model", folder, "--adapter", from_stored / "adapter", "--output", tmp_path / "original")
    assert done.returncode == 0, done.stderr


def test_merging_onto_originals_that_are_gone_is_refused(trained, bin_dir, tmp_path):
    _, output, _, run = trained
    done = merge(bin_dir, "--model", output, "--adapter", run / "adapter", "--output", tmp_path / "out")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert "holds 4-bit weights only; give --model the original model, or add --base dequantized" in done.stderr


def test_a_matrix_to_be_trained_whole_is_refused(quantized, bin_dir, tmp_path):
    _, output = quantized("llama")
    rows, run = training_run(output, peft={"target_modules": ["q_proj"], "modules_to_save": ["v_proj"]})
    (tmp_path / "train.jsonl").write_text(rows)
    (tmp_path / "run.json").write_text(json.dumps({**run, "training": {**run["training"], "output_dir": "out"}}))
    done = subprocess.run([bin_dir / "qlora-train", "--config", tmp_path / "run.json"], capture_output=True, text=True)
    assert done.returncode == 2 and "v_proj: is to be trained whole" in done.stderr


# --- settings that contradict ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section,message", [
    ({"load_in_4bit": False}, r"quantization\.load_in_4bit: false, stored is true"),
    ({"bnb_4bit_use_double_quant": False}, r"quantization\.bnb_4bit_use_double_quant: false, stored is true"),
    ({"bnb_4bit_blocksize": 128}, r"quantization\.bnb_4bit_blocksize: 128, stored is 64"),
])
def test_a_run_that_contradicts_the_stored_weights_is_refused(section, message, quantized, bin_dir, tmp_path):
    _, output = quantized("llama")
    rows, run = training_run(output, quantization=section)
    (tmp_path / "train.jsonl").write_text(rows)
    (tmp_path / "run.json").write_text(json.dumps({**run, "training": {**run["training"], "output_dir": "out"}}))
    for flags in ([], ["--dry-run"]):
        done = subprocess.run([bin_dir / "qlora-train", "--config", tmp_path / "run.json", *flags], capture_output=True,
                              text=True)
        assert done.returncode == 2 and re.search(message, done.stderr), done.stderr
        assert "leave the setting out, or use the original model" in done.stderr


def test_eval_takes_what_the_folder_holds(quantized, bin_dir, tmp_path):
    rows, _ = training_run("")
    (tmp_path / "rows.jsonl").write_text(rows)
    flags = ["--data", tmp_path / "rows.jsonl", "--template", "none"]
    folder, output = quantized("llama")
    results = [evaluate(bin_dir, "--model", *rest, *flags) for rest in
               ([output], [output, "--quantization", "nf4"], [folder, "--quantization", "nf4"])]
    assert len({done.stdout for done in results}) == 1 and results[0].returncode == 0, results
    dense = evaluate(bin_dir, "--model", folder, *flags)
    assert dense.returncode == 0 and dense.stdout != results[0].stdout
    _, plain = quantized("llama", PLAIN)
    for model, quantization, message in ((output, "none", "none: load_in_4bit: false, stored is true"),
                                         (plain, "nf4", "nf4: bnb_4bit_use_double_quant: true, stored is false")):
        done = evaluate(bin_dir, "--model", model, *flags, "--quantization", quantization)
        assert done.returncode == 2 and message in done.stderr, done.stderr


# --- broken checkpoints ------------------------------------------------------------------------------------------------

WEIGHT = "model.layers.1.mlp.up_proj.weight"
STATE = WEIGHT + ".quant_state.bitsandbytes__nf4"


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
