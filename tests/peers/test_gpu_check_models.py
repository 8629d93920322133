"""The random models of scripts/gpu_check.sh: size, bytes, and that our programs and the peers read them."""

import json
import struct
import sys

import pytest


@pytest.fixture(scope="module", autouse=True)
def folders(root):
    added = [str(root / "bench"), str(root / "scripts" / "gpu_check")]
    sys.path[:0] = added
    yield
    for folder in added:
        sys.path.remove(folder)


@pytest.mark.parametrize("shape", ["Qwen3-0.6B", "Llama-3.2-1B", "Llama-3.1-8B"])
def test_shapes_have_the_parameters_that_their_names_say(shape):
    from math import prod

    from random_model import SHAPES, dense_tensors

    count = sum(prod(dimensions) for _, dimensions, _ in dense_tensors(SHAPES[shape]))
    wanted = {"Qwen3-0.6B": 596_049_920, "Llama-3.2-1B": 1_235_814_400, "Llama-3.1-8B": 8_030_261_248}
    assert count == wanted[shape]


def test_code_books_are_those_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    import numpy as np
    from random_model import dynamic_map, nf4_table

    theirs = functional.get_4bit_type("nf4", device="cpu").numpy()
    np.testing.assert_array_equal(np.frombuffer(nf4_table(), np.float32), theirs)
    theirs = functional.create_dynamic_map(signed=True).numpy()
    np.testing.assert_allclose(np.frombuffer(dynamic_map(), np.float32), theirs, atol=1e-7, rtol=0)


def test_every_byte_is_one_token_and_rows_are_as_long_as_asked(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    from random_model import END_OF_TEXT, row_ids, text_rows, write_tokenizer

    write_tokenizer(tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "A tab\t, a line\n, \u00e9 and \U0001d11e."
    assert tokenizer.encode(text).ids == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    for row in text_rows(3, 40):
        assert row_ids(row) == [*tokenizer.encode(row["text"]).ids, END_OF_TEXT] and len(row_ids(row)) == 40


def test_bf16_is_the_upper_half_of_fp32():
    from random_model import as_bf16

    assert as_bf16(struct.pack("<2f", 1.0, -2.5)) == bytes([0x80, 0x3F, 0x20, 0xC0])


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "nf4"])
def test_our_programs_load_and_train_the_models(stored, bin_dir, tmp_path):
    from random_model import text_rows, write_model, write_rows
    from trainer import planned_bytes, read_metrics, run_config, train

    model = write_model(tmp_path / "model", "tiny", stored)
    write_rows(text_rows(4, 32), tmp_path / "rows.jsonl")
    config = run_config(model, tmp_path / "rows.jsonl", tmp_path / "out", "cpu", "float32", max_steps=2)
    assert planned_bytes(train(bin_dir, config, limit=600)) > 0
    lines = read_metrics(tmp_path / "out")
    assert [line["tokens"] for line in lines] == [64, 128]
    # Random weights know nothing: the loss is near that of guessing among 512 tokens, 6.24.
    assert all(5.5 < line["loss"] < 7.5 for line in lines)


def test_the_peers_load_the_4_bit_folder_and_see_our_loss(bin_dir, tmp_path):
    """At the first step adapters change nothing, whatever their A is. Both sides round to bf16 all along."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("bitsandbytes")
    import torch
    from random_model import row_ids, text_rows, write_model, write_rows
    from trainer import read_metrics, run_config, train

    model = write_model(tmp_path / "model", "tiny", "nf4")
    rows = text_rows(2, 32)
    write_rows(rows, tmp_path / "rows.jsonl")
    config = run_config(model, tmp_path / "rows.jsonl", tmp_path / "out", "cpu", "bfloat16", max_steps=1)
    train(bin_dir, config, limit=600)
    ours = read_metrics(tmp_path / "out")[0]["loss"]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16, device_map="cpu")
    ids = torch.tensor([row_ids(row) for row in rows])
    assert loaded(input_ids=ids, labels=ids).loss.item() == pytest.approx(ours, rel=1e-2)


def test_the_same_arguments_give_the_same_model_and_tensors_do_not_repeat_each_other(tmp_path):
    from random_model import write_model

    files = [write_model(tmp_path / name, "tiny", "bfloat16") / "model.safetensors" for name in "ab"]
    content = files[0].read_bytes()
    assert content == files[1].read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    header.pop("__metadata__")
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(data)
    starts = {data[b : b + 64] for name, e in header.items() if "proj" in name for b in e["data_offsets"][:1]}
    assert len(starts) == 7 * 4
