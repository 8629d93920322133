"""qlora-merge against PEFT: logits of base + adapter, every bit of the rounding, files, measures.

Logits of two fp32 models whose weights are W + sBA once and W, A, B the other time: 1e-5 of the largest (sums of a few
hundred products in another order). The merged tensors themselves are compared bit for bit.
"""

import json
import shutil
import warnings

import pytest
import torch
from merged_folders import (
    CASES,
    NESTED,
    PLAIN,
    load_strictly,
    logits_of,
    merge,
    peft_adapter,
    refused,
    tensors_of,
    trained_adapter,
)
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_model_parity import close_to_largest, dequantized_peer, peer, probe, sequences


@pytest.fixture(params=["peft", "ours"])
def adapter_of(request, peft_adapter, trained_adapter):
    make = peft_adapter if request.param == "peft" else trained_adapter
    quantization = PLAIN if request.param == "peft" else NESTED
    return lambda case: (make(case), quantization)


def states_of(bin_dir, tmp_path, folder, quantization):
    return probe(bin_dir, tmp_path, "states", model=str(folder), sequences=[[1, 2]], states=True, quantization=quantization)


@pytest.mark.parametrize("case", CASES)
def test_merged_logits_are_those_of_base_and_adapter_in_peft(case, adapter_of, tiny_model, bin_dir, tmp_path):
    folder = tiny_model(**CASES[case][0])
    adapter, quantization = adapter_of(case)
    base_logits = logits_of(peer(folder))
    for base in ("original", "dequantized"):
        output = tmp_path / base
        result, _ = merge(bin_dir, folder, adapter, output, "--base", base, "--dtype", "float32")
        states = states_of(bin_dir, tmp_path, folder, quantization) if base == "dequantized" else None
        model = peer(folder) if states is None else dequantized_peer(folder, states)
        expected = logits_of(PeftModel.from_pretrained(model, adapter))
        close_to_largest(logits_of(load_strictly(output)), expected)
        assert (expected - base_logits).abs().max() > 1e-3, "the adapter must show"
        assert result["merged"] == sum(key.endswith("lora_A.weight") for key in load_peft_weights(adapter))


def scalings(folder, adapter):
    """Module path -> scaling, by PEFT."""
    model = PeftModel.from_pretrained(peer(folder), adapter)
    return {name.removeprefix("base_model.model."): module.scaling["default"]
            for name, module in model.named_modules() if hasattr(module, "lora_A")}


@pytest.mark.parametrize("case", ["llama", "sharded-bf16", "sharded-fp16", "qwen3"])
@pytest.mark.parametrize("base", ["original", "dequantized"])
def test_every_bit_is_the_fp32_sum_rounded_once(case, base, peft_adapter, tiny_model, bin_dir, tmp_path):
    folder, adapter = tiny_model(**CASES[case][0]), peft_adapter(case)
    kept = states_of(bin_dir, tmp_path, folder, PLAIN) if base == "dequantized" else {}
    weights = {name: value.clone() for name, value in load_file(adapter / "adapter_model.safetensors").items()}
    expected = {}
    for name, value in tensors_of(folder).items():
        expected[name] = kept.get("dequantized." + name, value).float()
        replaced = weights.get("base_model.model." + name)
        if replaced is not None:
            expected[name] = replaced
    for path, scaling in scalings(folder, adapter).items():
        a, b = (weights[f"base_model.model.{path}.lora_{part}.weight"] for part in "AB")
        expected[path + ".weight"] = expected[path + ".weight"] + (b @ a) * scaling
    stored = {name: value.dtype for name, value in tensors_of(folder).items()}
    for name in ("auto", "float32", "bfloat16", "float16"):
        merge(bin_dir, folder, adapter, tmp_path / name, "--base", base, "--dtype", name)
        merged = tensors_of(tmp_path / name)
        assert set(merged) == set(expected)
        for key, value in expected.items():
            dtype = stored[key] if name == "auto" else getattr(torch, name)
            assert merged[key].dtype == dtype
            assert torch.equal(merged[key], value.to(dtype)), (name, key)


@pytest.mark.parametrize("case", ["llama-tied-both", "sharded-tied-head", "sharded-fp16", "llama-tied-head"])
def test_the_layout_and_the_other_files_stay(case, peft_adapter, tiny_model, bin_dir, tmp_path):
    folder, adapter, out = tiny_model(**CASES[case][0]), peft_adapter(case), tmp_path / "out"
    result, log = merge(bin_dir, folder, adapter, out)
    untied = "tied" in case
    assert {path.name for path in out.iterdir()} == {path.name for path in folder.iterdir()} - {"README.md"}
    for path in out.iterdir():
        if path.suffix != ".safetensors" and path.name not in ("config.json", "model.safetensors.index.json"):
            assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
    config, merged_config = (json.loads((place / "config.json").read_text()) for place in (folder, out))
    assert merged_config == ({**config, "tie_word_embeddings": False} if untied else config)
    assert result["untied"] == untied == ("tie_word_embeddings: false" in log)
    if not untied:
        assert (out / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    total, places = 0, {}
    for file in sorted(out.glob("*.safetensors")):
        tensors = load_file(file)
        save_file(tensors, tmp_path / "again.safetensors", metadata={"format": "pt"})
        assert file.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
        total += sum(tensor.nbytes for tensor in tensors.values())
        places |= {name: file.name for name in tensors}
    assert result["tensors"] == len(places)
    if (folder / "model.safetensors.index.json").exists():
        index, before = (json.loads((place / "model.safetensors.index.json").read_text()) for place in (out, folder))
        assert index["weight_map"] == places and index["metadata"]["total_size"] == total
        assert before["weight_map"].items() <= places.items()
        if "total_parameters" in before["metadata"]:
            assert index["metadata"]["total_parameters"] == sum(t.numel() for t in tensors_of(out).values())


def test_the_embedding_that_is_not_trained_stays_the_head(peft_adapter, tiny_model, bin_dir, tmp_path):
    folder, adapter = tiny_model(tie=True), peft_adapter("llama-tied-embedding")
    merge(bin_dir, folder, adapter, tmp_path / "out")
    merged, table = tensors_of(tmp_path / "out"), tensors_of(folder)["model.embed_tokens.weight"]
    assert torch.equal(merged["lm_head.weight"], table)
    assert not torch.equal(merged["model.embed_tokens.weight"], table)


def test_the_dtype_in_config_json_follows(peft_adapter, tiny_model, bin_dir, tmp_path):
    for name, options, key in (("new", {}, "dtype"), ("old", {"old_config": True}, "torch_dtype")):
        folder = tiny_model(**options)
        merge(bin_dir, folder, peft_adapter("llama"), tmp_path / name, "--dtype", "bfloat16")
        config = json.loads((folder / "config.json").read_text())
        assert json.loads((tmp_path / name / "config.json").read_text()) == {**config, key: "bfloat16"}


@pytest.mark.parametrize("case", ["llama-tied-both", "sharded-bf16"])
def test_merging_twice_gives_the_same_bytes(case, trained_adapter, tiny_model, bin_dir, tmp_path):
    folder, adapter = tiny_model(**CASES[case][0]), trained_adapter(case)
    before = {path.name: path.read_bytes() for place in (folder, adapter) for path in place.iterdir()}
    for name in "ab":
        merge(bin_dir, folder, adapter, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert before == {path.name: path.read_bytes() for place in (folder, adapter) for path in place.iterdir()}


@pytest.mark.parametrize("base", ["original", "dequantized"])
def test_measures_and_warnings_are_what_torch_computes(base, trained_adapter, tiny_model, bin_dir, tmp_path):
    folder, adapter = tiny_model(**CASES["sharded-bf16"][0]), trained_adapter("sharded-bf16")
    weights = load_file(adapter / "adapter_model.safetensors")
    # Small enough that rounding to bf16 loses some, but not all, of it.
    weights = {key: value * (0.003 if "lora_B" in key else 1) for key, value in weights.items()}
    small = tmp_path / "small"
    shutil.copytree(adapter, small)
    with safe_open(adapter / "adapter_model.safetensors", "pt") as opened:
        save_file(weights, small / "adapter_model.safetensors", metadata=opened.metadata())
    result, log = merge(bin_dir, folder, small, tmp_path / "out", "--base", base, "--verbose")

    original, states = tensors_of(folder), states_of(bin_dir, tmp_path, folder, NESTED)
    changed, back, ratios = 0, 0, {}
    for path, scaling in scalings(folder, small).items():
        a, b = (weights[f"base_model.model.{path}.lora_{part}.weight"].clone() for part in "AB")
        delta, nf4 = (b @ a) * scaling, states[f"dequantized.{path}.weight"]
        wide = original[path + ".weight"].float()
        start = wide if base == "original" else nf4
        same = (start + delta).bfloat16().view(torch.int16) == start.bfloat16().view(torch.int16)
        changed += (delta != 0).sum().item()
        back += (same & (delta != 0)).sum().item()
        ratios[path] = (delta.double().norm() / (wide - nf4).double().norm()).item()
        assert f"{path}: |update| {delta.norm().item():.4g}, " in log
    assert result["changed_weights"] == changed and result["rounded_back"] == back / changed
    assert 0 < back < changed
    measured = result["update_to_quantization_error"]
    assert measured["worst_layer"] == min(ratios, key=ratios.get)
    assert measured["worst"] == pytest.approx(min(ratios.values()), rel=1e-6)
    assert measured["mean"] == pytest.approx(sum(ratios.values()) / len(ratios), rel=1e-6)
    warned = [line for line in log.splitlines() if "warning:" in line]
    assert any("quantization error is larger than the update" in line for line in warned)
    assert any("more than half of the changed weights" in line for line in warned) == (back > changed / 2)
    assert ("was trained on the base's NF4 values" in log) == (base == "original")


def test_an_adapter_that_changes_nothing_is_said_so(peft_adapter, tiny_model, bin_dir, tmp_path):
    zero = tmp_path / "zero"
    get_peft_model(peer(tiny_model()), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(zero)
    result, log = merge(bin_dir, tiny_model(), zero, tmp_path / "out")
    assert result["changed_weights"] == 0 and "every update is zero" in log
    merged = tensors_of(tmp_path / "out")
    assert all(torch.equal(merged[name], value) for name, value in tensors_of(tiny_model()).items())


def test_our_adapter_loads_in_peft_with_our_logits(trained_adapter, tiny_model, bin_dir, tmp_path):
    for case in ("llama", "qwen2-bias-all", "llama-tied-head", "qwen3"):
        folder, adapter = tiny_model(**CASES[case][0]), trained_adapter(case)
        base = dequantized_peer(folder, states_of(bin_dir, tmp_path, folder, NESTED))
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*(missing|unexpected) (adapter )?keys.*")
            model = PeftModel.from_pretrained(base, adapter)
        loaded = set_peft_model_state_dict(model, load_peft_weights(adapter))
        assert loaded.unexpected_keys == []
        trained = [key for key in loaded.missing_keys if "lora_" in key or "modules_to_save" in key]
        assert trained == [], PeftConfig.from_pretrained(adapter)
        ours = probe(bin_dir, tmp_path, model=str(folder), adapter=str(adapter), quantization=NESTED,
                     sequences=sequences(model.config.vocab_size))
        close_to_largest(ours["logits"], logits_of(model))


def test_a_finished_adapter_goes_by_its_tensors(tiny_model, bin_dir, tmp_path):
    """PEFT's own files of a start that left the base alone, of another task, and of a raw state dict."""
    folder, adapter = tiny_model(), tmp_path / "adapter"
    config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights="orthogonal", target_modules=["q_proj", "c_attn"], r=4)
    model = get_peft_model(peer(folder), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(adapter)
    expected = logits_of(PeftModel.from_pretrained(peer(folder), adapter))

    def check(name, words):
        _, log = merge(bin_dir, folder, adapter, tmp_path / name)
        close_to_largest(logits_of(load_strictly(tmp_path / name)), expected)
        assert words in log

    check("names", '"c_attn" matches no module of this model')
    weights = adapter / "adapter_model.safetensors"
    raw = {name: value for name, value in model.state_dict().items() if "lora_" in name}
    assert all(".default." in name for name in raw)
    save_file(raw, weights, metadata={"format": "pt"})
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "task_type": "SEQ_CLS"}))
    check("task", "task_type SEQ_CLS is passed over")
    save_file({**raw, "base_model.model.score.weight": torch.ones(2, 3)}, weights, metadata={"format": "pt"})
    refused(bin_dir, folder, adapter, tmp_path / "out", 'task_type: "SEQ_CLS".*base_model.model.score.weight')
