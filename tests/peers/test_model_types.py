"""Every model type, with its options, against transformers and peft in fp32: weights, logits, gradients, adapters; and that
recomputation, packing and the cache of keys and values change nothing.

Bounds: logits 1e-5 of the largest (sums of a few hundred fp32 products in another order), gradients 1e-4 relative L2 per
tensor (two more passes of such sums).
"""

import re

import pytest
import torch
from model_case import EXPERT_TYPES, LEVELS, VISION, case_of, names_of, supported_types
from model_options import NO_DIFFERENCE, OPTIONS
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS
from test_model_parity import close_to_largest, expert_matrices, peer, relative_l2
from transformers.pytorch_utils import Conv1D

NAMES = names_of(2)


def test_every_model_type_is_made_compared_and_in_the_readme(root):
    from make_tiny_model import MODEL_TYPES

    types = set(supported_types())
    assert "llama" in types and types <= set(OPTIONS) <= set(MODEL_TYPES)
    readme = (root / "README.md").read_text(encoding="utf-8")
    supported = next(line for line in readme.splitlines() if line.startswith("| models (`model_type`)"))
    assert types <= set(re.findall(r"`(\w+)`", supported))


@pytest.mark.parametrize("name", NAMES)
def test_an_option_shows_in_transformers_logits(name, case_of):
    """What no option changes, the other tests here could not see."""
    case = case_of(name)
    plain = f"{case.model_type}-{next(iter(OPTIONS[case.model_type]))}"
    if name == plain or name.endswith("-bare"):
        return
    first, second = case_of(plain).logits, case.logits
    gap = (first - second).abs().max() / first.abs().max()
    assert gap == 0 if name in NO_DIFFERENCE else gap > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_linears_are_those_of_transformers(name, case_of):
    case = case_of(name)
    ours = {key.removeprefix("dequantized."): value for key, value in case.probed("plain").items() if "dequantized." in key}
    head = case.model.get_output_embeddings()
    theirs = {f"{path}.weight": module.weight.t() if isinstance(module, Conv1D) else module.weight
              for path, module in case.model.named_modules()
              if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head and not any(v in path for v in VISION)}
    theirs |= {path: weight for path, weight in expert_matrices(case.model).items() if not any(v in path for v in VISION)}
    if case.model_type in EXPERT_TYPES:
        theirs |= {name: weight for name, weight in case.model.named_parameters() if name.endswith(".mlp.gate.weight")}
    assert set(ours) == set(theirs)
    for key, weight in theirs.items():
        assert torch.equal(ours[key], weight), key


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_transformers(name, case_of):
    case = case_of(name)
    close_to_largest(case.probed("plain")["logits"], case.logits)


@pytest.mark.parametrize("name", NAMES)
def test_cached_keys_and_values_give_the_logits_of_a_whole_pass(name, case_of):
    ours = case_of(name).probed("plain")
    close_to_largest(ours["cached_logits"], ours["logits"])


def gradients(answer):
    return {key.removeprefix("grad."): value for key, value in answer.items() if key.startswith("grad.")}


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_peft_on_our_adapter_and_our_quantized_weights(name, case_of):
    case = case_of(name)
    ours = case.probed("adapted")
    loss, logits, theirs = case.peft_on_our_weights
    close_to_largest(ours["logits"], logits)
    assert abs(ours["loss"].item() - loss) <= 1e-5 * abs(loss)
    mine = gradients(ours)
    assert set(mine) == set(theirs)
    for key, gradient in theirs.items():
        assert relative_l2(mine[key], gradient) <= 1e-4, key


@pytest.mark.parametrize("name", NAMES)
def test_recomputation_changes_no_bit(name, case_of):
    plain, *others = (case_of(name).probed(level) for level in LEVELS)
    assert gradients(plain)
    for other in others:
        assert set(plain) == set(other)
        for key, value in plain.items():
            assert torch.equal(value, other[key]), key
    assert not torch.equal(plain["loss"], case_of(name).probed("next step")["loss"]), "dropout must differ between steps"


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_sequence_gets_the_gradients_it_has_alone(name, case_of):
    case = case_of(name)
    packed = case.probed("adapted")
    alone = [case.probed(f"alone{i}") for i in range(len(case.ids))]
    loss = sum(answer["loss"].item() for answer in alone)
    assert abs(packed["loss"].item() - loss) <= 1e-6 * abs(loss)
    assert gradients(packed)
    for key, gradient in gradients(packed).items():
        assert relative_l2(gradient, sum(answer["grad." + key] for answer in alone)) <= 1e-5, key


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_of_peft_gives_its_logits(name, case_of):
    case = case_of(name)
    close_to_largest(case.probed("theirs")["logits"], case.peft_logits)
    assert (case.peft_logits - case.logits).abs().max() > 1e-3, "the adapter must show"


@pytest.mark.parametrize("name", names_of(1))
def test_without_target_modules_the_layers_are_those_of_peft_or_the_error_names_the_linears(name, case_of):
    case = case_of(name)
    if case.model_type == "mixtral":  # PEFT 0.21.2 fails with its own default
        ours = [key for key in case.probed("default targets") if key.startswith("param.")]
        assert {key.split(".")[-3] for key in ours} == {"q_proj", "v_proj"}
        return
    if case.model_type in PEFT_TARGETS:
        theirs = get_peft_model_state_dict(get_peft_model(peer(case.folder), LoraConfig(task_type="CAUSAL_LM")))
        ours = [key.removeprefix("param.") for key in case.probed("default targets") if key.startswith("param.")]
        assert set(ours) == set(theirs)
        return
    refused = re.search(r"^default targets: (.*)$", case.answers.errors, re.MULTILINE)
    assert refused, "peft has no default for this type"
    for key in case.probed("plain"):
        if key.startswith("dequantized.") and ".experts." not in key:
            assert key.split(".")[-2] in refused[1]
