"""One tiny model of tests/peers/model_options.py on both sides: what transformers and peft make of it, and what our programs
do. Everything is made when it is first asked for; all that needs model_probe runs in one process."""

import functools
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from merged_folders import merge
from model_options import CASES, OPTIONS
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from test_model_parity import dequantized_peer, peer, peer_loss_and_logits, sequences

REGISTRY = Path(__file__).resolve().parents[2] / "src" / "models" / "architectures" / "registry.cpp"
FULL = os.environ.get("QLORA_FULL") == "1"
LEVELS = ("none", "mlp", "layers")
VISION = ("vision_tower.", "multi_modal_projector.")
# PEFT makes all linears of a model with a tower its targets, those of the tower too.
TARGETS = {"gemma3": r".*language_model\..*_proj", "mistral3": r".*language_model\..*_proj"}
EXPERT_TYPES = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe")
# Its "all-linear" counts experts as parameters: test_moe_models.py.
TARGETS |= dict.fromkeys(EXPERT_TYPES, ["q_proj", "k_proj", "v_proj", "o_proj"])


def supported_types():
    """As src/models/architectures/registry.cpp lists them."""
    return re.findall(r'\{"(\w+)", \w', REGISTRY.read_text(encoding="utf-8"))


def names_of(options):
    """The names in CASES of the first `options` of each supported type; of all options with QLORA_FULL=1."""
    known = supported_types()
    return [f"{model_type}-{option}" for model_type in OPTIONS if model_type in known
            for option in list(OPTIONS[model_type])[: None if FULL else options]]


class Case:
    def __init__(self, name, tiny_model, bin_dir, scratch):
        self.model_type = CASES[name]["model_type"]
        self.folder = tiny_model(**CASES[name])
        self.bin_dir, self.scratch = bin_dir, scratch
        self.ids = sequences(json.loads((self.folder / "config.json").read_text()).get("vocab_size", 512))
        generator = np.random.default_rng(1)
        self.supervised = [[0] + generator.integers(0, 2, len(ids) - 1).tolist() for ids in self.ids]
        self.lora = {"r": 4, "lora_alpha": 8, "init_lora_weights": False,
                     "target_modules": TARGETS.get(self.model_type, "all-linear")}

    # --- transformers and peft -------------------------------------------------------------------------------------------

    def logits_of(self, model):
        with torch.no_grad():
            return peer_loss_and_logits(model, self.ids)[1]

    @functools.cached_property
    def model(self):
        return peer(self.folder)

    @functools.cached_property
    def logits(self):
        return self.logits_of(self.model)

    @functools.cached_property
    def peft_adapter(self):
        """A folder that PEFT saved, of an adapter that shows."""
        torch.manual_seed(3)
        adapted = get_peft_model(peer(self.folder), LoraConfig(task_type="CAUSAL_LM", **{**self.lora, "r": 3}))
        adapted.eval()
        self.peft_logits = self.logits_of(adapted)
        adapted.save_pretrained(self.scratch / "theirs")
        return self.scratch / "theirs"

    @functools.cached_property
    def peft_on_our_weights(self):
        """Loss, logits and gradients, by the keys of an adapter file, of the adapter that we saved on our quantized weights."""
        ours = self.probed("adapted")
        model = PeftModel.from_pretrained(dequantized_peer(self.folder, ours), self.scratch / "ours", is_trainable=True)
        model.eval()  # a base's own dropout is taken as 0
        loss, logits = peer_loss_and_logits(model, self.ids, self.supervised)
        loss.backward()
        gradients = {key.replace(".default", ""): parameter.grad for key, parameter in model.named_parameters()
                     if parameter.grad is not None}
        return loss.item(), logits, gradients

    # --- our programs ----------------------------------------------------------------------------------------------------

    def requests(self):
        model = {"model": str(self.folder)}
        together = {**model, "sequences": self.ids, "supervised": self.supervised, "gradients": True, "quantization": {}}
        dropout = {"training": True, "dropout_step": 5, "peft": {**self.lora, "lora_dropout": 0.2}}
        yield {"name": "plain", **model, "sequences": self.ids, "states": True, "cached": True}
        yield {"name": "theirs", **model, "sequences": self.ids, "adapter": str(self.peft_adapter)}
        yield {"name": "adapted", **together, "peft": self.lora, "states": True, "save_adapter": str(self.scratch / "ours")}
        for level in LEVELS:
            yield {"name": level, **together, **dropout, "recomputation": level}
        yield {"name": "next step", **together, **dropout, "dropout_step": 6}
        yield {"name": "default targets", **model, "sequences": [[1, 2]], "peft": {}}
        for i, (ids, supervised) in enumerate(zip(self.ids, self.supervised)):
            yield {"name": f"alone{i}", **together, "peft": self.lora, "sequences": [ids], "supervised": [supervised]}

    @functools.cached_property
    def answers(self):
        return probe_all(self.bin_dir, self.scratch / "probe", self.requests())

    def probed(self, name):
        return self.answers(name)

    @functools.cached_property
    def merged(self):
        output = self.scratch / "merged"
        merge(self.bin_dir, self.folder, self.peft_adapter, output, "--base", "original", "--dtype", "float32")
        return output


def probe_all(bin_dir, stem, requests):
    """Runs model_probe on named requests in one process. Returns a function from a request's name to its tensors, which
    fails the test with what stderr says where that request failed; it has that text as `errors`."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    request_file, output = stem.with_suffix(".json"), stem.with_suffix(".safetensors")
    request_file.write_text(json.dumps(list(requests)))
    run = subprocess.run([bin_dir / "model_probe", request_file, output], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    answers = {}
    for key, tensor in load_file(output).items():
        name, key = key.split("/", 1)
        answers.setdefault(name, {})[key] = tensor

    def answer(name):
        if name not in answers:
            pytest.fail(f"model_probe: {run.stderr}", pytrace=False)
        return answers[name]

    answer.errors = run.stderr
    return answer


@pytest.fixture(scope="session")
def case_of(tiny_model, bin_dir, tmp_path_factory):
    """case_of(name in CASES) -> Case, made once."""
    return functools.cache(lambda name: Case(name, tiny_model, bin_dir, tmp_path_factory.mktemp(name)))
