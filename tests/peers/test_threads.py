"""A run's bytes do not depend on the number of threads: what one machine began, another can go on with."""

from pathlib import Path

import pytest
from peft_loop import qlora_train, training_lines

ROWS = 2


def train(bin_dir, folder, smollm2, root, threads, **settings):
    folder.mkdir()
    run = {
        "model": {"path": str(smollm2), "threads": threads},
        "peft": {"r": 8, "lora_dropout": settings.pop("lora_dropout", 0.0), "target_modules": "all-linear"},
        "data": {"train": str(root / "data" / "wordnet_train.jsonl")},
        "training": {"max_steps": 2, "per_device_train_batch_size": ROWS, "gradient_accumulation_steps": 2,
                     "learning_rate": 1e-3, "logging_steps": 1, "warmup_ratio": 0.0, **settings},
    }
    output = qlora_train(bin_dir, folder, run, "--quiet")
    return (output / "adapter" / "adapter_model.safetensors").read_bytes(), [
        (line["loss"], line["grad_norm"]) for line in training_lines(output)]


@pytest.mark.parametrize("settings,others", [
    ({}, (2, 3)),
    ({"lora_dropout": 0.1, "optim": "adamw_8bit", "gradient_checkpointing": True}, (3,)),
], ids=["plain", "dropout, 8-bit moments, checkpointing"])
def test_any_number_of_threads_writes_the_same_adapter(settings, others, bin_dir, smollm2, root, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # three threads on two cores
    if "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("without AVX2 products are BLAS's")
    alone = train(bin_dir, tmp_path / "1", smollm2, root, 1, **settings)
    for threads in others:
        assert train(bin_dir, tmp_path / str(threads), smollm2, root, threads, **settings) == alone
