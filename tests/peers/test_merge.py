"""qlora-merge against PEFT: logits of base + adapter, every bit of the rounding, files, measures, refusals.

Logits of two fp32 models whose weights are W + sBA once and W, A, B the other time: 1e-5 of the largest (sums of a few
hundred products in another order). The merged tensors themselves are compared bit for bit.
"""

import json
import re
import shutil
import subprocess
import warnings

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from peft_loop import qlora_train
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_model_parity import close_to_largest, dequantized_peer, peer, probe, sequences
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


@pytest.fixture(params=["peft", "ours"])
def adapter_of(request, peft_adapter, trained_adapter):
    make = peft_adapter if request.param == "peft" else trained_adapter
    quantization = PLAIN if request.param == "peft" else NESTED
    return lambda case: (make(case), quantization)


def states_of(bin_dir, tmp_path, folder, quantization):
    return probe(bin_dir, tmp_path, "states", model=str(folder), sequences=[[1, 2]], states=True, quantization=quantization)


def logits_of(model):
    with torch.no_grad():
        return torch.cat([model(torch.tensor([ids])).logits[0] for ids in sequences(model.config.vocab_size)])


def load_strictly(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model


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


def rename_key(weights):
    weights["base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"] = weights.pop(min(weights))


def cut_column(weights):
    weights[min(weights)] = weights[min(weights)][:, :-1].contiguous()


def put_nan(weights):
    weights[min(weights)][0, 0] = float("nan")


def put_integers(weights):
    weights[min(weights)] = weights[min(weights)].int()


def put_huge(weights):
    for key in weights:
        weights[key] *= 1e3


FAULTS = {
    "missing-key": (lambda weights: weights.pop(min(weights)), [], r"lora_A\.weight: is missing \(expected shape \[8, "),
    "unexpected-key": (rename_key, [], r"layers\.7.*is not a parameter that this adapter_config\.json trains"),
    "wrong-shape": (cut_column, [], r"has shape \[8, \d+\], this base and configuration ask for \[8, \d+\]"),
    "nan": (put_nan, [], r"lora_A\.weight holds a value that is not finite"),
    "integers": (put_integers, [], r"has dtype I32; F32, F16 and BF16 are supported"),
    "too-large-for-fp16": (put_huge, ["--dtype", "float16"], r"do not fit F16; use --dtype bfloat16 or float32"),
    "unknown-dtype": (None, ["--dtype", "bf16"], r"--dtype: must be one of .*, not \"bf16\""),
    "unknown-base": (None, ["--base", "nf4"], r"--base: must be one of "),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_refused_in_one_sentence(name, peft_adapter, tiny_model, bin_dir, tmp_path):
    change, flags, message = FAULTS[name]
    adapter = tmp_path / "adapter"
    shutil.copytree(peft_adapter("llama"), adapter)
    if change is not None:
        weights = load_file(adapter / "adapter_model.safetensors")
        change(weights)
        save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    refused(bin_dir, tiny_model(), adapter, tmp_path / "out", message, *flags)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def refused(bin_dir, model, adapter, output, message, *flags):
    done = run_merge(bin_dir, "--model", model, "--adapter", adapter, "--output", output, *flags)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and re.search(message, done.stderr), done.stderr
    assert "report it" not in done.stderr


def test_another_base_is_refused_unless_allowed(trained_adapter, tiny_model, bin_dir, tmp_path):
    adapter, other = trained_adapter("llama"), tiny_model(seed=5)
    refused(bin_dir, other, adapter, tmp_path / "out", "trained on another base .*--allow-other-base")
    assert not (tmp_path / "out").exists()
    _, log = merge(bin_dir, other, adapter, tmp_path / "out", "--allow-other-base")
    assert re.search("warning: --allow-other-base: .*another base", log)


def test_a_base_that_differs_in_one_bit_is_another(trained_adapter, tiny_model, bin_dir, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(tiny_model(), folder)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    refused(bin_dir, folder, trained_adapter("llama"), tmp_path / "out", "trained on another base")


def test_a_used_output_folder_is_refused_and_untouched(peft_adapter, tiny_model, bin_dir, tmp_path):
    for name in ("full", "file"):
        place = tmp_path / name
        kept = place / "notes.txt" if name == "full" else place
        kept.parent.mkdir(exist_ok=True)
        kept.write_text("mine")
        refused(bin_dir, tiny_model(), peft_adapter("llama"), place, "is not empty|is a file")
        assert kept.read_text() == "mine"
    (tmp_path / "empty").mkdir()
    merge(bin_dir, tiny_model(), peft_adapter("llama"), f"{tmp_path}/empty/")
    merge(bin_dir, tiny_model(), peft_adapter("llama"), tmp_path / "new" / "parent")
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_a_dequantized_base_needs_to_be_known(peft_adapter, tiny_model, bin_dir, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(peft_adapter("llama"), adapter)
    flags = ["--base", "dequantized"]
    set_metadata(adapter, **{"qlora.quantization": json.dumps({"load_in_4bit": False})})
    refused(bin_dir, tiny_model(), adapter, tmp_path / "out", "not quantized; use --base original", *flags)
    set_metadata(adapter, **{"qlora.quantization": '{"bnb_4bit_blocksize": 48}'})
    refused(bin_dir, tiny_model(), adapter, tmp_path / "out", "bnb_4bit_blocksize: must be .*power of two", *flags)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    refused(bin_dir, tiny_model(), adapter, tmp_path / "out", "does not say how .*use --base original", *flags)


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


def test_methods_that_cannot_be_merged_are_refused(peft_adapter, tiny_model, bin_dir, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(peft_adapter("llama"), adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    refused(bin_dir, tiny_model(), adapter, tmp_path / "out", "use_dora.*DoRA")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    refused(bin_dir, tiny_model(), adapter, tmp_path / "out", "adapter_model.bin: is a pickle file")
    refused(bin_dir, tiny_model(), tmp_path, tmp_path / "out", "has no adapter_config.json")
    refused(bin_dir, tmp_path, peft_adapter("llama"), tmp_path / "out", "has neither model.safetensors nor")
