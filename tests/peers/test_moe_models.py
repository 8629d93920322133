"""Adapters on experts and routers, and the loss for even routing, on tiny random models against transformers and peft in
fp32. (test_model_types.py compares these types with adapters on attention.)

Bounds: logits 1e-5 of the largest (sums of a few hundred fp32 products in another order), gradients 1e-4 relative L2 per
tensor (two more passes of such sums).
"""

import functools
import json
import subprocess

import pytest
import torch
from merged_folders import merge
from model_case import LEVELS, probe_all
from model_options import CASES
from peft import LoraConfig, PeftModel, get_peft_model
from test_model_parity import close_to_largest, dequantized_peer, peer, peer_loss_and_logits, relative_l2, sequences

NAMES = ("mixtral-plain", "qwen3_moe-dense-layer", "olmoe-plain")
LORA = {"r": 2, "lora_alpha": 6, "init_lora_weights": False, "target_modules": "all-linear"}
ROUTER_SHARE = 20.0  # of the routers' loss: enough to show beside a sum over tokens


class Case:
    def __init__(self, name, tiny_model, bin_dir, scratch):
        self.folder, self.bin_dir, self.scratch = tiny_model(**CASES[name]), bin_dir, scratch
        self.ids = sequences(json.loads((self.folder / "config.json").read_text())["vocab_size"])

    def requests(self):
        model = {"model": str(self.folder), "sequences": self.ids}
        adapted = {**model, "quantization": {}, "peft": LORA, "gradients": True}
        yield {"name": "adapted", **adapted, "states": True, "save_adapter": str(self.scratch / "ours")}
        for level in LEVELS:
            yield {"name": level, **adapted, "recomputation": level, "router_loss": ROUTER_SHARE}
        yield {"name": "bf16 none", **adapted, "compute_dtype": "bfloat16"}
        yield {"name": "bf16 layers", **adapted, "compute_dtype": "bfloat16", "recomputation": "layers"}
        yield {"name": "alone", **adapted, "sequences": self.ids[:1], "router_loss": ROUTER_SHARE}
        yield {"name": "theirs", **model, "adapter": str(self.peft_adapter)}

    @functools.cached_property
    def answer(self):
        return probe_all(self.bin_dir, self.scratch / "probe", self.requests())

    @functools.cached_property
    def peft_adapter(self):
        torch.manual_seed(3)
        adapted = get_peft_model(peer(self.folder), LoraConfig(task_type="CAUSAL_LM", **LORA))
        with torch.no_grad():
            self.peft_logits = peer_loss_and_logits(adapted, self.ids)[1]
        adapted.save_pretrained(self.scratch / "theirs")
        return self.scratch / "theirs"

    def adapted_peer(self):
        model = dequantized_peer(self.folder, self.answer("adapted"))
        return PeftModel.from_pretrained(model, self.scratch / "ours", is_trainable=True)


@pytest.fixture(scope="module")
def case_of(tiny_model, bin_dir, tmp_path_factory):
    return functools.cache(lambda name: Case(name, tiny_model, bin_dir, tmp_path_factory.mktemp(name)))


def gradients_of(model):
    return {key.replace(".default", ""): parameter.grad for key, parameter in model.named_parameters()
            if parameter.grad is not None}


def expect_gradients(ours, theirs):
    mine = {key.removeprefix("grad."): value for key, value in ours.items() if key.startswith("grad.")}
    assert set(mine) == set(theirs)
    assert any(".experts.base_layer.lora_A" in key for key in mine) and any(".gate.lora_B" in key for key in mine)
    for key, gradient in theirs.items():
        assert relative_l2(mine[key], gradient) <= 1e-4, key


@pytest.mark.parametrize("name", NAMES)
def test_all_linear_adapts_what_peft_adapts(name, case_of):
    case = case_of(name)
    case.answer("adapted")
    ours, theirs = (json.loads((folder / "adapter_config.json").read_text())
                    for folder in (case.scratch / "ours", case.peft_adapter))
    for key in ("target_modules", "target_parameters"):
        assert sorted(ours[key]) == sorted(theirs[key]), key
    for key in ("r", "lora_alpha", "rank_pattern", "alpha_pattern"):
        assert ours[key] == theirs[key], key


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_peft_on_our_adapter_and_our_quantized_weights(name, case_of):
    case = case_of(name)
    model = case.adapted_peer()
    loss, logits = peer_loss_and_logits(model, case.ids)
    close_to_largest(case.answer("adapted")["logits"], logits)
    loss.backward()
    expect_gradients(case.answer("adapted"), gradients_of(model))


@pytest.mark.parametrize("name", NAMES)
def test_the_routers_loss_and_its_gradients_equal_transformers(name, case_of):
    case = case_of(name)
    model = case.adapted_peer()
    ids = torch.tensor(case.ids[:1])
    out = model(ids, output_router_logits=True)
    ours = case.answer("alone")
    assert abs(ours["router_loss"].item() - out.aux_loss.item()) <= 1e-5 * out.aux_loss.item()
    cross_entropy = torch.nn.functional.cross_entropy(out.logits[0, :-1], ids[0, 1:], reduction="sum")
    (cross_entropy + ROUTER_SHARE * out.aux_loss).backward()
    expect_gradients(ours, gradients_of(model))


@pytest.mark.parametrize("name", NAMES)
def test_recomputation_changes_no_bit(name, case_of):
    case = case_of(name)
    for plain, *others in (LEVELS, ("bf16 none", "bf16 layers")):
        for other in others:
            assert set(case.answer(plain)) == set(case.answer(other))
            for key, value in case.answer(plain).items():
                assert torch.equal(value, case.answer(other)[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_of_peft_gives_its_logits_and_merges_into_them(name, case_of):
    case = case_of(name)
    close_to_largest(case.answer("theirs")["logits"], case.peft_logits)
    merged = case.scratch / "merged"
    report, _ = merge(case.bin_dir, case.folder, case.peft_adapter, merged, "--base", "original", "--dtype", "float32")
    assert not report["update_to_quantization_error"]["worst_layer"].endswith("gate")  # routers are never quantized
    with torch.no_grad():
        close_to_largest(peer_loss_and_logits(peer(merged), case.ids)[1], case.peft_logits)


def test_a_4_bit_folder_holds_experts_dense_and_gives_the_weights_of_a_run(case_of, tmp_path):
    case = case_of("qwen3_moe-dense-layer")
    subprocess.run([case.bin_dir / "qlora-quantize", "--model", case.folder, "--output", tmp_path / "four"], check=True,
                   capture_output=True, timeout=60)
    requests = [{"name": name, "model": str(folder), "sequences": case.ids, "quantization": {}, "states": True}
                for name, folder in (("run", case.folder), ("folder", tmp_path / "four"))]
    answer = probe_all(case.bin_dir, tmp_path / "probe", requests)
    assert any(key.startswith("codes.") and ".experts." in key for key in answer("run"))
    for key, value in answer("run").items():
        assert torch.equal(value, answer("folder")[key]), key
