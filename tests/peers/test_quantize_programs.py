"""Every program on checkpoints stored in 4 bits: training, evaluating, merging, and settings that contradict what is stored.

Losses of two runs of ours, adapters and merged weights are compared bit for bit.
"""

import json
import re
import subprocess

import pytest
import torch
from quantized_folders import (
    PLAIN,
    config_of,
    evaluate,
    quantized,
    train,
    training_run,
)
from safetensors import safe_open
from safetensors.torch import load_file

# --- the programs on it ------------------------------------------------------------------------------------------------


def losses(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


def adapter_file(output):
    return output / "adapter" / "adapter_model.safetensors"


@pytest.mark.parametrize("name,settings", [("llama-narrow", {}), ("qwen2-tied-fp16", {}),
                                           ("llama-narrow", {"bnb_4bit_use_double_quant": False,
                                                             "bnb_4bit_blocksize": 128}),
                                           ("llama", {"bnb_4bit_compute_dtype": "bfloat16"})])
def test_training_from_the_quantized_folder_is_the_same_to_the_bit(name, settings, quantized, bin_dir, tmp_path):
    written = {key: json.dumps(value).strip('"') for key, value in settings.items()}
    nested = json.loads(written.pop("bnb_4bit_use_double_quant", "true"))
    folder, output = quantized(name, nested, **written)
    original = train(bin_dir, tmp_path / "original", folder, quantization=settings)
    # Nothing said, or all of it said again; the compute dtype is the run's own.
    compute = {key: value for key, value in settings.items() if key == "bnb_4bit_compute_dtype"}
    for i, section in enumerate((compute, settings)):
        again = train(bin_dir, tmp_path / f"stored{i}", output, quantization=section)
        assert losses(again) == losses(original) and len(losses(again)) >= 4
        found, expected = load_file(adapter_file(again)), load_file(adapter_file(original))
        assert set(found) == set(expected)
        for key, value in expected.items():
            assert torch.equal(found[key], value), key
    resolved = json.loads((again / "run_config.json").read_text())["quantization"]
    assert resolved == json.loads((original / "run_config.json").read_text())["quantization"]


@pytest.fixture(scope="module")
def trained(quantized, bin_dir, tmp_path_factory):
    """Original, its quantized folder, and the runs on each."""
    folder, output = quantized("llama-bias-bf16-sharded")
    base = tmp_path_factory.mktemp("trained")
    return folder, output, train(bin_dir, base / "a", folder), train(bin_dir, base / "b", output)


def test_adapters_of_the_original_and_of_its_4_bit_form_fit_both(trained, bin_dir):
    folder, output, from_original, from_stored = trained
    data = from_original.parent / "train.jsonl"
    results = set()
    for model in (folder, output):
        for run in (from_original, from_stored):
            done = evaluate(bin_dir, "--model", model, "--adapter", run / "adapter", "--data", data, "--template", "none")
            assert done.returncode == 0, done.stderr
            results.add(done.stdout)
    assert len(results) == 1, "the same weights"
    with safe_open(adapter_file(from_stored), "pt") as opened:
        metadata = opened.metadata()
    with safe_open(adapter_file(from_original), "pt") as opened:
        assert metadata["qlora.original"] == opened.metadata()["qlora.base"] != metadata["qlora.base"]
    by_config = evaluate(bin_dir, "--config", from_stored.parent / "run.json")
    assert by_config.returncode == 2 and "data.eval" in by_config.stderr


def test_an_adapter_of_another_base_is_refused(trained, quantized, bin_dir):
    _, output, run, _ = trained
    _, other = quantized("llama")
    flags = ["--adapter", run / "adapter", "--data", run.parent / "train.jsonl", "--template", "none"]
    done = evaluate(bin_dir, "--model", other, *flags)
    assert done.returncode == 2 and "was trained on another base" in done.stderr


def merge(bin_dir, *flags):
    return subprocess.run([bin_dir / "qlora-merge", *map(str, flags)], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_merging_onto_4_bit_weights_is_merging_onto_the_dequantized_original(dtype, trained, bin_dir, tmp_path):
    folder, output, from_original, from_stored = trained
    for name, model, run in (("a", folder, from_original), ("b", output, from_stored), ("c", output, from_original)):
        done = merge(bin_dir, "--model", model, "--adapter", run / "adapter", "--output", tmp_path / name, "--base",
                     "dequantized", "--dtype", dtype)
        assert done.returncode == 0, done.stderr
    expected = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    for name in "bc":
        found = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        assert set(found) == set(expected)
        for file, content in expected.items():
            if file != "config.json":  # laid out anew
                assert found[file] == content, file
        assert config_of(tmp_path / name) == config_of(tmp_path / "a")
    done = merge(bin_dir, "--model", folder, "--adapter", from_stored / "adapter", "--output", tmp_path / "original")
    assert done.returncode == 0, done.stderr


def test_merging_onto_originals_that_are_gone_is_refused(trained, bin_dir, tmp_path):
    _, output, _, run = trained
    done = merge(bin_dir, "--model", output, "--adapter", run / "adapter", "--output", tmp_path / "out")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert "holds 4-bit weights only; give --model the original model, or add --base dequantized" in done.stderr


def test_a_matrix_to_be_trained_whole_is_refused(quantized, bin_dir, tmp_path):
    _, output = quantized("llama")
    rows, run = training_run(output, peft={"target_modules": ["q_proj"], "modules_to_save": ["v_proj"]})
    (tmp_path / "train.jsonl").write_text(rows)
    (tmp_path / "run.json").write_text(json.dumps({**run, "training": {**run["training"], "output_dir": "out"}}))
    done = subprocess.run([bin_dir / "qlora-train", "--config", tmp_path / "run.json"], capture_output=True, text=True)
    assert done.returncode == 2 and "v_proj: is to be trained whole" in done.stderr


# --- settings that contradict ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section,message", [
    ({"load_in_4bit": False}, r"quantization\.load_in_4bit: false, stored is true"),
    ({"bnb_4bit_use_double_quant": False}, r"quantization\.bnb_4bit_use_double_quant: false, stored is true"),
    ({"bnb_4bit_blocksize": 128}, r"quantization\.bnb_4bit_blocksize: 128, stored is 64"),
])
def test_a_run_that_contradicts_the_stored_weights_is_refused(section, message, quantized, bin_dir, tmp_path):
    _, output = quantized("llama")
    rows, run = training_run(output, quantization=section)
    (tmp_path / "train.jsonl").write_text(rows)
    (tmp_path / "run.json").write_text(json.dumps({**run, "training": {**run["training"], "output_dir": "out"}}))
    for flags in ([], ["--dry-run"]):
        done = subprocess.run([bin_dir / "qlora-train", "--config", tmp_path / "run.json", *flags], capture_output=True,
                              text=True)
        assert done.returncode == 2 and re.search(message, done.stderr), done.stderr
        assert "leave the setting out, or use the original model" in done.stderr


def test_eval_takes_what_the_folder_holds(quantized, bin_dir, tmp_path):
    rows, _ = training_run("")
    (tmp_path / "rows.jsonl").write_text(rows)
    flags = ["--data", tmp_path / "rows.jsonl", "--template", "none"]
    folder, output = quantized("llama")
    results = [evaluate(bin_dir, "--model", *rest, *flags) for rest in
               ([output], [output, "--quantization", "nf4"], [folder, "--quantization", "nf4"])]
    assert len({done.stdout for done in results}) == 1 and results[0].returncode == 0, results
    dense = evaluate(bin_dir, "--model", folder, *flags)
    assert dense.returncode == 0 and dense.stdout != results[0].stdout
    _, plain = quantized("llama", PLAIN)
    for model, quantization, message in ((output, "none", "none: load_in_4bit: false, stored is true"),
                                         (plain, "nf4", "nf4: bnb_4bit_use_double_quant: true, stored is false")):
        done = evaluate(bin_dir, "--model", model, *flags, "--quantization", quantization)
        assert done.returncode == 2 and message in done.stderr, done.stderr
