"""Every model type in files: merged models and 4-bit folders, read and written, against transformers, peft and bitsandbytes.

Bounds: merged logits 1e-5 of the largest, as in test_merge.py; logits of two fp32 implementations on the same dequantized
weights 1e-4, as in test_quantize_peers.py.
"""

import functools
import shutil

import pytest
import torch
from model_case import VISION, case_of, names_of, probe_all
from quantized_folders import load_strictly, quantize, save_with_bitsandbytes, tensors_of
from safetensors.torch import save_file
from test_model_parity import close_to_largest, expert_matrices, peer, set_quantized

NAMES = names_of(1)


def own_tensors(folder):
    """Those of the language model."""
    return {name: tensor for name, tensor in tensors_of(folder).items() if not any(part in name for part in VISION)}


@pytest.mark.parametrize("name", NAMES)
def test_a_merged_model_has_the_tensors_of_its_base_and_the_logits_of_peft(name, case_of):
    case = case_of(name)
    before, after = tensors_of(case.folder), tensors_of(case.merged)
    assert {key: value.shape for key, value in after.items()} == {key: value.shape for key, value in before.items()}
    for key in set(before) - set(own_tensors(case.folder)):
        assert torch.equal(before[key], after[key]), key
    close_to_largest(case.logits_of(load_strictly(case.merged)), case.peft_logits)


@pytest.fixture(scope="module")
def in_4bit(case_of, bin_dir):
    """in_4bit(name) -> (our folder, bitsandbytes' folder, the answers of model_probe on both)."""

    def make(name):
        case = case_of(name)
        folders = {"ours": case.scratch / "ours-4bit", "theirs": case.scratch / "theirs-4bit"}
        quantize(bin_dir, case.folder, folders["ours"])
        save_with_bitsandbytes(case.folder, folders["theirs"], bnb_4bit_use_double_quant=True)
        requests = [{"name": whose, "model": str(folder), "sequences": case.ids, "quantization": {}, "states": True}
                    for whose, folder in folders.items()]
        return folders, probe_all(bin_dir, case.scratch / "probe-4bit", requests)

    return functools.cache(make)


@pytest.mark.parametrize("name", NAMES)
def test_our_4bit_folder_holds_the_tensors_of_bitsandbytes(name, in_4bit):
    ours, theirs = (own_tensors(folder) for folder in in_4bit(name)[0].values())
    shapes = [{key: value.shape for key, value in tensors.items() if "quant_state" not in key} for tensors in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert set(ours) == set(theirs) and any(key.endswith(".absmax") for key in ours)


@pytest.mark.parametrize("whose", ["ours", "theirs"])
@pytest.mark.parametrize("name", NAMES)
def test_a_4bit_folder_gives_transformers_logits(name, whose, case_of, in_4bit):
    folders, answers = in_4bit(name)
    ours, model = answers(whose), load_strictly(folders[whose])
    # Such a folder holds experts dense, and transformers runs them so; we quantize them as we load them.
    set_quantized(expert_matrices(model), {key: value for key, value in ours.items() if ".experts." in key})
    close_to_largest(ours["logits"], case_of(name).logits_of(model), 1e-4)


# Type -> the beginning that a decoder saved without its head lacks, and tensors that its releases hold and that are made
# anew when a model is loaded.
RELEASED = {
    "gpt2-plain": ("transformer.", {"h.0.attn.bias": torch.ones(1, 1, 8, 8), "h.1.attn.masked_bias": torch.tensor(-1e4)}),
    "gpt_neox-plain": ("", {"gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8),
                            "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
                            "gpt_neox.layers.1.attention.rotary_emb.inv_freq": torch.ones(2)}),
}


@pytest.mark.parametrize("name", [name for name in RELEASED if name in NAMES])
def test_the_names_of_released_files_give_the_same_logits(name, case_of, bin_dir, tmp_path):
    case, (beginning, more) = case_of(name), RELEASED[name]
    folder = shutil.copytree(case.folder, tmp_path / "model")
    tensors = {key.removeprefix(beginning): value for key, value in tensors_of(folder).items()} | more
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    close_to_largest(case.logits_of(peer(folder)), case.logits)  # products' bits depend on where in memory weights lie
    answers = probe_all(bin_dir, tmp_path / "probe", [{"name": "released", "model": str(folder), "sequences": case.ids}])
    assert torch.equal(answers("released")["logits"], case.probed("plain")["logits"])
