"""Which layers a LoraConfig adapts, with which rank and scaling, and what adapter_config.json says: equal to PEFT's.

QLORA_BIN names the folder with the program lora_rules.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, PeftConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper

FAMILIES = {
    "llama": (transformers.LlamaConfig, {}),
    "qwen2": (transformers.Qwen2Config, {}),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 8}),
    "mistral": (transformers.MistralConfig, {}),
    "llama-tied": (transformers.LlamaConfig, {"tie_word_embeddings": True}),
}
LAYERS = 4
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]


def tiny_model(model_type):
    torch.manual_seed(0)
    config_class, extra = FAMILIES[model_type]
    config = config_class(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=LAYERS,
                          num_attention_heads=2, num_key_value_heads=1, **extra)
    return transformers.AutoModelForCausalLM.from_config(config)


def describe_modules(model):
    head = model.get_output_embeddings()
    return [
        {
            "path": path,
            "is_linear": isinstance(module, torch.nn.Linear),
            "is_output_embedding": module is head,
            "is_embedding": isinstance(module, torch.nn.Embedding),
            "is_norm": type(module).__name__.endswith("RMSNorm"),
        }
        for path, module in model.named_modules()
        if path
    ]


def run_rules(config, model):
    folder = os.environ.get("QLORA_BIN")
    assert folder, "QLORA_BIN must name the folder with the built programs"
    program = Path(folder) / "lora_rules"
    assert program.is_file(), f"{program} is missing"
    request = {"config": {"peft_type": "LORA", **config}, "modules": describe_modules(model),
               "model_type": model.config.model_type, "tied": model.config.tie_word_embeddings}
    done = subprocess.run([program], input=json.dumps(request), capture_output=True, text=True, timeout=60)
    answer = json.loads(done.stdout)
    assert done.returncode == (2 if "error" in answer else 0), done.stderr
    return answer


def adapted(peft_model):
    """Path -> (rank, alpha, scaling) of each adapted layer, and the paths trained whole."""
    targets, saved = {}, []
    for path, module in peft_model.named_modules():
        path = path.removeprefix("base_model.model.")
        if isinstance(module, LoraLayer):
            targets[path] = (module.r["default"], module.lora_alpha["default"], module.scaling["default"])
        if isinstance(module, ModulesToSaveWrapper):
            saved.append(path)
    return targets, saved


def ours(answer):
    return {t["path"]: (t["r"], t["lora_alpha"], t["scaling"]) for t in answer["targets"]}


# Every case is (architecture, settings). JSON names are PEFT's.
CASES = [
    # defaults and lists
    ("llama", {}),
    ("qwen2", {}),
    ("qwen3", {}),
    ("mistral", {}),
    ("llama", {"r": 1}),
    ("llama", {"r": 64, "lora_alpha": 16}),
    ("llama", {"lora_alpha": 7, "r": 3}),
    ("llama", {"lora_dropout": 0.1}),
    ("llama", {"target_modules": ["q_proj"]}),
    ("qwen2", {"target_modules": ATTENTION}),
    ("qwen3", {"target_modules": MLP}),
    ("mistral", {"target_modules": ATTENTION + MLP}),
    ("llama", {"target_modules": ["self_attn.q_proj"]}),
    ("llama", {"target_modules": ["model.layers.2.mlp.down_proj"]}),
    ("llama", {"target_modules": ["2.mlp.down_proj", "q_proj"]}),
    ("llama", {"target_modules": ["q_proj", "q_proj"]}),
    ("qwen3", {"target_modules": [f"model.layers.{i}.self_attn.{n}" for i in range(LAYERS) for n in ATTENTION]}),
    ("llama", {"target_modules": [f"model.layers.{i}.mlp.{n}" for i in range(LAYERS) for n in MLP]}),
    ("llama", {"target_modules": [f"model.layers.{i}.{p}" for i in (0, 1, 3) for p in
                                  [f"mlp.{n}" for n in MLP] + [f"self_attn.{n}" for n in ATTENTION]]}),
    # all-linear
    ("llama", {"target_modules": "all-linear"}),
    ("qwen2", {"target_modules": "all-linear"}),
    ("qwen3", {"target_modules": "ALL-Linear"}),
    ("mistral", {"target_modules": "all-linear", "r": 4, "use_rslora": True}),
    ("llama", {"target_modules": "all-linear", "exclude_modules": ["down_proj"]}),
    ("llama", {"target_modules": "all-linear", "exclude_modules": r".*\.mlp\..*"}),
    ("llama", {"target_modules": "all-linear", "modules_to_save": ["lm_head"]}),
    ("qwen2", {"target_modules": "all-linear", "rank_pattern": {"mlp.down_proj": 2}}),
    # regular expressions on whole paths
    ("llama", {"target_modules": r".*q_proj"}),
    ("llama", {"target_modules": r".*\.(q|v)_proj"}),
    ("qwen2", {"target_modules": r"model\.layers\.\d+\.self_attn\.(q|k|v)_proj"}),
    ("qwen3", {"target_modules": r"model\.layers\.[13]\.mlp\..*_proj"}),
    ("mistral", {"target_modules": r".*\.layers\.(?!0\.)\d+\.self_attn\.o_proj"}),
    ("llama", {"target_modules": r".*(?<!down)_proj"}),
    ("llama", {"target_modules": r"(?i).*\.Q_PROJ"}),
    ("llama", {"target_modules": r".*\.(?P<kind>gate|up)_proj"}),
    ("llama", {"target_modules": r"model.layers.0.self_attn.q_proj"}),
    ("llama", {"target_modules": r"(model\.)?layers\.0\..*_proj|.*\.3\.mlp\.up_proj"}),
    ("llama", {"target_modules": r".*?\.0\.self_attn\.\w+_proj$"}),
    # exclusion
    ("llama", {"target_modules": ATTENTION, "exclude_modules": ["k_proj"]}),
    ("llama", {"target_modules": ATTENTION, "exclude_modules": ["model.layers.1.self_attn.q_proj"]}),
    ("llama", {"target_modules": ATTENTION, "exclude_modules": ["1.self_attn.q_proj", "o_proj"]}),
    ("llama", {"target_modules": ATTENTION, "exclude_modules": r".*layers\.[01]\..*"}),
    ("llama", {"target_modules": ATTENTION, "exclude_modules": []}),
    ("llama", {"target_modules": ATTENTION, "exclude_modules": ""}),
    ("llama", {"target_modules": ATTENTION, "exclude_modules": ["nothing_like_it"]}),
    ("llama", {"target_modules": r".*_proj", "exclude_modules": r".*\.mlp\..*"}),
    ("llama", {"target_modules": r".*(q_proj|lm_head)", "exclude_modules": ["lm_head"]}),
    # embedding and head
    ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    ("llama", {"target_modules": ["embed_tokens", "lm_head"], "rank_pattern": {"lm_head": 3}, "alpha_pattern": {"embed_tokens": 5},
               "use_rslora": True}),
    ("qwen2", {"target_modules": r".*(embed_tokens|v_proj)", "exclude_modules": ["1.self_attn.v_proj"]}),
    ("llama", {"target_modules": ["lm_head", "q_proj"], "layers_to_transform": [1]}),
    ("llama-tied", {"target_modules": ["lm_head", "q_proj"]}),
    ("llama-tied", {"target_modules": ["lm_head", "q_proj"], "ensure_weight_tying": True}),
    ("llama-tied", {"target_modules": ["embed_tokens"], "ensure_weight_tying": True, "alpha_pattern": {"lm_head": 3}}),
    ("llama-tied", {"target_modules": r".*(q_proj|lm_head)", "ensure_weight_tying": True}),
    ("llama-tied", {"target_modules": r"lm_head|.*v_proj", "ensure_weight_tying": True}),
    ("llama-tied", {"target_modules": ["q_proj"], "ensure_weight_tying": True}),
    ("llama-tied", {"target_modules": "all-linear", "ensure_weight_tying": True}),
    ("llama", {"target_modules": ["lm_head", "q_proj"], "ensure_weight_tying": True}),
    # modules trained whole
    ("llama", {"modules_to_save": ["lm_head"]}),
    ("llama", {"modules_to_save": ["embed_tokens", "lm_head"]}),
    ("llama", {"modules_to_save": ["input_layernorm"]}),
    ("llama", {"modules_to_save": ["model.norm"]}),
    ("llama", {"modules_to_save": ["norm"]}),
    ("qwen3", {"modules_to_save": ["q_norm"], "target_modules": ATTENTION}),
    ("llama", {"modules_to_save": ["v_proj"], "target_modules": ["q_proj", "v_proj"]}),
    ("llama", {"modules_to_save": [], "target_modules": ["q_proj"]}),
    # layers
    ("llama", {"target_modules": ["q_proj"], "layers_to_transform": 1}),
    ("llama", {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [0, 3]}),
    ("qwen2", {"target_modules": ATTENTION, "layers_to_transform": []}),
    ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [2], "layers_pattern": "layers"}),
    ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [2], "layers_pattern": ["h", "layers"]}),
    ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [2], "layers_pattern": []}),
    ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [2], "layers_pattern": ""}),
    ("llama", {"target_modules": ["q_proj", "model.layers.3.self_attn.k_proj"], "layers_to_transform": [1]}),
    ("mistral", {"layers_to_transform": [0]}),
    ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "l[a-z]+s"}),
    # rank and alpha patterns: the first key that matches wins
    ("llama", {"rank_pattern": {"q_proj": 2}}),
    ("llama", {"rank_pattern": {"q_proj": 2, "v_proj": 32}, "alpha_pattern": {"q_proj": 64}}),
    ("llama", {"alpha_pattern": {"self_attn.v_proj": 1}}),
    ("llama", {"rank_pattern": {r"layers\.[02]\.self_attn\.q_proj": 2}}),
    ("llama", {"rank_pattern": {r"model.layers.1.self_attn.q_proj": 2, "q_proj": 4}}),
    ("llama", {"rank_pattern": {"q_proj": 4, r"model.layers.1.self_attn.q_proj": 2}}),
    ("llama", {"alpha_pattern": {"z_none|q_proj": 2, ".*_proj": 16}}),
    ("llama", {"alpha_pattern": {"v_proj": 2, "(q|v)_proj": 8, "proj": 3}}),
    ("llama", {"rank_pattern": {"proj": 2}}),
    ("llama", {"rank_pattern": {r".*\.\d+\.self_attn\.v_proj": 5}, "lora_alpha": 11}),
    ("qwen2", {"target_modules": MLP, "rank_pattern": {"up": 2, "down_proj|up_proj": 3}}),
    # scaling
    ("llama", {"use_rslora": True}),
    ("llama", {"use_rslora": True, "r": 7, "lora_alpha": 13}),
    ("llama", {"use_rslora": True, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"q_proj": 5}}),
    ("llama", {"lora_alpha": 2.5, "r": 3}),
    # start and biases
    ("llama", {"init_lora_weights": "gaussian"}),
    ("llama", {"init_lora_weights": False}),
    ("qwen2", {"bias": "all"}),
    ("qwen2", {"bias": "lora_only", "task_type": "CAUSAL_LM"}),
    # together
    ("qwen3", {"target_modules": ATTENTION + MLP, "exclude_modules": ["2.mlp.up_proj"], "layers_to_transform": [1, 2],
               "rank_pattern": {"mlp.up_proj": 2, "up_proj": 3, r"layers\.2\..*": 5},
               "alpha_pattern": {r"2\.self_attn\.\w+": 9}, "use_rslora": True, "modules_to_save": ["model.norm"]}),
]


def case_name(case):
    return f"{case[0]}-{json.dumps(case[1])[:80]}"


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_adapts_the_same_layers_with_the_same_rank_and_scaling(case):
    model_type, settings = case
    answer = run_rules(settings, tiny_model(model_type))
    assert "error" not in answer, answer
    peft_targets, peft_saved = adapted(get_peft_model(tiny_model(model_type), LoraConfig(**settings)))
    assert peft_targets
    assert ours(answer) == peft_targets
    assert sorted(answer["modules_to_save"]) == sorted(peft_saved)


def with_sets(config):
    """Lists of names are sets in PEFT: their order is by chance."""
    names = ("target_modules", "exclude_modules")
    return {k: sorted(v) if k in names and isinstance(v, list) else v for k, v in config.items()}


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_saved_configuration_has_the_keys_and_values_of_peft(case, tmp_path):
    model_type, settings = case
    peft_model = get_peft_model(tiny_model(model_type), LoraConfig(**settings))
    config = peft_model.peft_config["default"]
    config.base_model_name_or_path = "/base"
    config.inference_mode = True
    config.save_pretrained(tmp_path)
    theirs = json.loads((tmp_path / "adapter_config.json").read_text())
    text = run_rules({**settings, "base_model_name_or_path": "/base"}, tiny_model(model_type))["adapter_config"]
    mine = json.loads(text)
    assert list(mine) == list(theirs)
    assert with_sets(mine) == with_sets(theirs)
    assert list(mine["rank_pattern"]) == list(settings.get("rank_pattern", {}))
    assert list(mine["alpha_pattern"]) == list(settings.get("alpha_pattern", {}))
    # The same layout: PEFT's text differs only where a set or a pattern has another order.
    indented = json.dumps(mine, indent=2)
    assert text == indented


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_peft_adapts_the_same_layers_from_our_saved_configuration(case, tmp_path):
    model_type, settings = case
    answer = run_rules(settings, tiny_model(model_type))
    (tmp_path / "adapter_config.json").write_text(answer["adapter_config"])
    config = PeftConfig.from_pretrained(tmp_path)
    targets, saved = adapted(get_peft_model(tiny_model(model_type), config))
    assert targets == ours(answer)
    assert sorted(saved) == sorted(answer["modules_to_save"])


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_our_saved_configuration_means_the_same_when_read_again(case):
    model = tiny_model(case[0])
    first = run_rules(case[1], model)
    again = run_rules(json.loads(first["adapter_config"]), model)
    assert again["targets"] == first["targets"]
    assert again["adapter_config"] == first["adapter_config"]


# What PEFT refuses, we refuse.
REFUSED_BY_BOTH = [
    {"target_modules": []},
    {"target_modules": "q_proj"},
    {"target_modules": ["no_such_layer"]},
    {"target_modules": r".*\.(q_proj"},
    {"target_modules": r".*\.mlp"},
    {"target_modules": ["self_attn"]},
    {"target_modules": ["input_layernorm"]},
    {"target_modules": "all-linear", "layers_to_transform": [1]},
    {"target_modules": ".*q_proj", "layers_pattern": "layers"},
    {"target_modules": ["q_proj"], "layers_pattern": "layers"},
    {"target_modules": ["q_proj"], "layers_to_transform": [99]},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "blocks"},
    {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["q_proj"]},
    {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 0}},
    {"r": 0},
    {"r": -4},
    {"bias": "some"},
    {"target_modules": ["embed_tokens"], "lora_bias": True},
]


@pytest.mark.parametrize("settings", REFUSED_BY_BOTH, ids=json.dumps)
def test_refuses_what_peft_refuses(settings):
    with pytest.raises(Exception):
        get_peft_model(tiny_model("llama"), LoraConfig(**settings))
    assert run_rules(settings, tiny_model("llama")).get("error")


# What PEFT passes in silence, because a part of it matches.
STRICTER = [
    ({"target_modules": ["q_proj", "vproj"]}, '"v_proj"'),
    ({"target_modules": ["q_proj", "query"]}, "q_proj, k_proj, v_proj, o_proj"),
    ({"target_modules": ["q_proj"], "layers_to_transform": [1, 4]}, "numbered 0 to 3"),
    ({"modules_to_save": ["score"]}, '"score"'),
    ({"modules_to_save": ["mlp"]}, "no weight of its own"),
]


@pytest.mark.parametrize("settings,fragment", STRICTER, ids=lambda value: json.dumps(value))
def test_refuses_half_matching_settings_that_peft_accepts(settings, fragment):
    get_peft_model(tiny_model("llama"), LoraConfig(**settings))
    assert fragment in run_rules(settings, tiny_model("llama")).get("error", "")
