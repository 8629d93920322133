"""The tiny random models that other tests compare on: equal bytes each time, and no tensor without effect."""

import json
import os
import sys

import pytest
from model_options import CASES, OPTIONS

from make_tiny_model import TinyModel, auto_class, main, make_tiny_model

VARIANTS = [
    {},
    {"bias": True, "rope": "llama3", "old_config": True},
    {"model_type": "mistral", "sliding_window": 8, "rope": "linear"},
    {"model_type": "qwen2", "tie": True, "sliding_window": 8},
    {"model_type": "qwen3", "bias": True, "head_dim": 32},
]


OTHERS = OPTIONS if os.environ.get("QLORA_FULL") == "1" else ("cohere", "gemma3", "gpt2")
VARIANTS += [CASES[f"{model_type}-{next(iter(OPTIONS[model_type]))}"] for model_type in OTHERS]


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: options.get("model_type", "llama"))
def test_every_tensor_changes_the_logits(tiny_model, options):
    import torch

    model = auto_class(options.get("model_type")).from_pretrained(tiny_model(**options), dtype=torch.float32)
    ids = torch.arange(40, 72).unsqueeze(0)
    with torch.no_grad():
        logits = model(ids).logits
        assert 0.5 < logits.std() < 8.0
        for name, parameter in model.named_parameters():
            if "vision" in name or "multi_modal" in name:  # beside the language model
                continue
            kept = parameter.clone()
            parameter.mul_(1.5)
            assert not torch.equal(model(ids).logits, logits), name
            parameter.copy_(kept)


@pytest.mark.parametrize("options", [VARIANTS[2], VARIANTS[3]], ids=["mistral", "qwen2"])
def test_the_sliding_window_matters(tiny_model, options):
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.arange(40, 72).unsqueeze(0)
    models = [
        AutoModelForCausalLM.from_pretrained(tiny_model(**{**options, "sliding_window": window}))
        for window in (8, None)
    ]
    with torch.no_grad():
        near, far = (model(ids).logits[0] for model in models)
    assert torch.allclose(near[:8], far[:8], atol=1e-5)
    assert not torch.allclose(near[8:], far[8:], atol=1e-2)


def test_the_same_options_give_the_same_bytes(tmp_path):
    first, second = (make_tiny_model(tmp_path / name, TinyModel(seed=3)) for name in "ab")
    names = sorted(path.name for path in first.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= set(names)
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    other = make_tiny_model(tmp_path / "c", TinyModel(seed=4))
    assert (other / "model.safetensors").read_bytes() != (first / "model.safetensors").read_bytes()


def test_the_old_config_reads_the_same(tiny_model):
    from transformers import AutoConfig

    old, new = (tiny_model(bias=True, rope="llama3", old_config=flag) for flag in (True, False))
    assert "rope_parameters" not in json.loads((old / "config.json").read_text())
    assert AutoConfig.from_pretrained(old).rope_parameters == AutoConfig.from_pretrained(new).rope_parameters


def test_the_tokenizer_is_trained_to_size_and_round_trips(tiny_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    assert len(tokenizer) == 512
    for text in ("a plant with small flowers", "한국어 🙂", "<|im_start|>user\n"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_tokenizer_can_be_copied(tiny_model):
    source = tiny_model()
    copied = tiny_model(tokenizer=str(source), vocab=640)
    assert (copied / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert json.loads((copied / "config.json").read_text())["vocab_size"] == 640


@pytest.mark.parametrize(
    "options, words",
    [
        ({"model_type": "mistral", "bias": True}, "no biases"),
        ({"sliding_window": 8}, "no sliding window"),
        ({"heads": 4, "kv_heads": 3}, "cannot share"),
        ({"model_type": "gpt3"}, "gpt3.* not one of"),
        ({"model_type": "gpt2", "kv_heads": 1, "sliding_window": 4}, "no sliding_window; gpt2 has no num_key_value_heads"),
        ({"model_type": "gemma3", "config": {"text_config.model_type": "gemma4"}}, "gemma4.* not one of"),
        ({"model_type": "gpt2", "bias": True}, "no biases to switch on"),
    ],
)
def test_options_a_model_cannot_express_are_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        make_tiny_model(tmp_path / "x", TinyModel(**options))


def test_any_key_stands_in_the_file_and_in_the_model(tmp_path, monkeypatch, capsys):
    """The command: values are JSON or plain text, keys may lie within others."""
    from transformers import AutoConfig

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["make_tiny_model.py", str(tmp_path), "--model-type", "gemma3", "--layers", "3", *flags])
        return main()

    kinds = ["full_attention", "sliding_attention", "full_attention"]
    assert run("--config", f"text_config.layer_types={json.dumps(kinds)}", "--config", "text_config.sliding_window=9",
               "--config", "text_config.rope_parameters.full_attention.rope_theta=5000.0",
               "--config", "text_config.hidden_activation=gelu", "--drop", "boi_token_index") == 0
    written, read = json.loads((tmp_path / "config.json").read_text()), AutoConfig.from_pretrained(tmp_path)
    assert "boi_token_index" not in written and "eoi_token_index" in written
    text = read.text_config
    assert (text.layer_types, text.sliding_window, text.hidden_activation) == (kinds, 9, "gelu")
    assert text.rope_parameters["full_attention"]["rope_theta"] == 5000.0
    assert written["text_config"]["rope_parameters"]["full_attention"]["rope_theta"] == 5000.0
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run("--config", "sliding_window")
    assert stopped.value.code == 2 and "'sliding_window' is not KEY=VALUE" in capsys.readouterr().err


def test_a_bare_config_says_what_transformers_takes_anyway(tiny_model):
    from transformers import AutoConfig

    whole, bare = (tiny_model(model_type="gemma2", tie=True, kv_heads=4, bare=flag) for flag in (False, True))
    kept = json.loads((bare / "config.json").read_text())
    assert {"hidden_size", "model_type"} <= set(kept)
    gone = {"rms_norm_eps", "attn_logit_softcapping", "num_key_value_heads", "rope_parameters", "tie_word_embeddings"}
    assert not gone & set(kept)
    read = [AutoConfig.from_pretrained(folder).to_dict() for folder in (whole, bare)]
    for config in read:
        del config["_name_or_path"]
    assert read[0] == read[1]
