"""Twenty steps of qlora-train against transformers + peft for one model of each family, as test_training_parity.py does for
whole runs: the same rows, adapter and quantized weights, its bounds for tiny models. An ordinary run takes one NF4 and one
dense base, QLORA_FULL=1 both of every family.
"""

import pytest
from model_case import EXPERT_TYPES, FULL, TARGETS, supported_types
from model_options import CASES
from test_model_parity import dequantized_peer, peer, probe
from test_training_parity import TINY_FP32, TRAINING, compare_run, hold, seeded_adapter, short_rows

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # the peer's training would turn it on
FAMILIES = ("gemma", "gemma2", "gemma3_text", "phi3", "granite", "smollm3", "exaone4", "olmo2", "olmo3", "ministral3",
            "mistral3", "gpt2", "gpt_neox", "cohere", "cohere2", "glm4", "starcoder2", "phi", "stablelm", "hyperclovax",
            "mixtral", "qwen3_moe", "olmoe", "qwen2_moe")
RUNS = [(family, base) for family in FAMILIES for base in ("nf4", "dense")] if FULL else \
    [("gemma3_text", "nf4"), ("gpt2", "dense"), ("qwen3_moe", "nf4")]
RUNS = [run for run in RUNS if run[0] in supported_types()]


@pytest.mark.parametrize("family,base", RUNS)
def test_twenty_losses_are_those_of_transformers_and_peft(family, base, root, tiny_model, bin_dir, tmp_path, capsys):
    options = {**CASES[f"{family}-plain"], "max_positions": 512}
    if family == "gpt2":
        options["config"] = NO_DROPOUT
    folder = tiny_model(**options)
    if base == "nf4":
        quantization = {"bnb_4bit_compute_dtype": "float32"}
        states = probe(bin_dir, tmp_path, model=str(folder), sequences=[[1, 2]], states=True, quantization={})
        model = dequantized_peer(folder, states)
    else:
        quantization, model = {"load_in_4bit": False}, peer(folder)
    targets = "all-linear" if family in EXPERT_TYPES else TARGETS.get(family, "all-linear")  # experts and routers too
    adapter = seeded_adapter(model, tmp_path / "start", r=4, lora_alpha=8, target_modules=targets)
    result = compare_run(bin_dir, tmp_path, folder, model, adapter, short_rows(root, tmp_path, 60),
                         {**TRAINING, "learning_rate": 5e-3}, quantization, capsys, template="chatml")
    hold(result, TINY_FP32)
