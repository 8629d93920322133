"""What qlora-merge refuses, in one sentence: broken adapters, another base, folders in use, methods it lacks."""

import json
import re
import shutil

import pytest
from merged_folders import merge, peft_adapter, refused, set_metadata, trained_adapter
from safetensors.torch import load_file, save_file


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


def test_methods_that_cannot_be_merged_are_refused(peft_adapter, tiny_model, bin_dir, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(peft_adapter("llama"), adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_qalora": True}))
    refused(bin_dir, tiny_model(), adapter, tmp_path / "out", "use_qalora.*QA-LoRA")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    refused(bin_dir, tiny_model(), adapter, tmp_path / "out", "adapter_model.bin: is a pickle file")
    refused(bin_dir, tiny_model(), tmp_path, tmp_path / "out", "has no adapter_config.json")
    refused(bin_dir, tmp_path, peft_adapter("llama"), tmp_path / "out", "has neither model.safetensors nor")
