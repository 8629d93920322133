"""The rules of a run that interface and users rely on: learning rates, length, batching, logs, evaluation, bit equality.

Runs of qlora-train on tiny random models, against transformers where it has the rule.
"""

import hashlib
import json
import math

import pytest
import torch
from peft_loop import chatml_rows, mean_loss, peer_from_adapter, qlora_train, read_lines, supervised_tokens, training_lines
from safetensors.torch import load_file
from test_model_parity import dequantized_peer, peer, probe
from transformers import Trainer, TrainingArguments, get_scheduler

TRAINING_KEYS = {
    "step", "epoch", "loss", "learning_rate", "grad_norm", "supervised_tokens", "tokens", "tokens_per_second",
    "step_time", "memory_bytes",
}
EVALUATION_KEYS = {"step", "eval_loss", "eval_token_accuracy"}
FAST = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "logging_steps": 1, "learning_rate": 1e-2,
        "sample_rows": 0}


@pytest.fixture(scope="module")
def folder(tiny_model):
    return tiny_model(model_type="qwen3", head_dim=24)


@pytest.fixture(scope="module")
def lines_of(root):
    """The first rows of the WordNet set whose text is short, as lines."""
    lines = (root / "data" / "wordnet_train.jsonl").read_text(encoding="utf-8").splitlines()
    short = [line for line in lines if len(line) < 230]
    return lambda count, skip=0: short[skip : skip + count]


@pytest.fixture
def train(folder, lines_of, bin_dir, tmp_path):
    """train(rows, training={}, data={}, ...) -> output folder of a run on that many rows."""

    def run(rows, training=(), data=(), peft=(), quantization=(), name="run", held_out=0):
        where = tmp_path / name
        where.mkdir()
        (where / "train.jsonl").write_text("\n".join(lines_of(rows)) + "\n", encoding="utf-8")
        sections = {
            "model": {"path": str(folder), "device": "cpu"},
            "quantization": dict(quantization),
            "peft": {"r": 4, "init_lora_weights": False, **dict(peft)},
            "data": {"train": "train.jsonl", "template": "chatml", **dict(data)},
            "training": {**FAST, **dict(training)},
        }
        if held_out:
            (where / "eval.jsonl").write_text("\n".join(lines_of(held_out, 200)) + "\n", encoding="utf-8")
            sections["data"]["eval"] = "eval.jsonl"
        return qlora_train(bin_dir, where, sections, "--quiet")

    return run


def rates_of_transformers(name, warmup_steps, total, rate):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total)
    rates = []
    for _ in range(total):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name,warmup", [("linear", {"warmup_steps": 3}), ("linear", {"warmup_ratio": 0.25}),
                                         ("cosine", {"warmup_steps": 0.21}), ("cosine", {}), ("constant", {}),
                                         ("constant_with_warmup", {"warmup_steps": 0.5})])
def test_learning_rates_are_those_of_transformers(name, warmup, train, tmp_path):
    output = train(7, {"lr_scheduler_type": name, "num_train_epochs": 2, "gradient_accumulation_steps": 2,
                       "learning_rate": 0.00123, **warmup})
    ours = [line["learning_rate"] for line in training_lines(output)]
    share = warmup.get("warmup_steps", warmup.get("warmup_ratio", 0.03))
    arguments = TrainingArguments(output_dir=str(tmp_path), warmup_steps=share, use_cpu=True)
    theirs = rates_of_transformers(name, arguments.get_warmup_steps(8), 8, 0.00123)
    assert len(ours) == 8
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12 * 0.00123)


class Dummy(torch.nn.Module):
    """The smallest model that transformers' Trainer can train; counts its micro-batches."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        return {"loss": (self.weight * x).mean()}


def steps_of_transformers(rows, batch, accumulation, epochs, folder, max_steps=-1):
    model = Dummy()
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs, max_steps=max_steps, use_cpu=True, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True)
    trainer = Trainer(model=model, args=arguments, train_dataset=[{"x": torch.tensor([float(i)])} for i in range(rows)])
    trainer.train()
    return trainer.state.global_step, model.batches


LENGTHS = [  # rows, batch, accumulation, epochs
    (7, 1, 2, 1), (7, 2, 2, 1), (7, 3, 1, 2), (1, 4, 8, 2), (8, 2, 4, 1), (9, 2, 4, 3), (5, 1, 8, 2), (6, 4, 2, 2),
]


@pytest.mark.parametrize("rows,batch,accumulation,epochs", LENGTHS)
def test_the_number_of_steps_is_the_trainers(rows, batch, accumulation, epochs, train, tmp_path):
    output = train(rows, {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation,
                          "num_train_epochs": epochs, "log_rows": True})
    lines = training_lines(output)
    expected, micro_batches = steps_of_transformers(rows, batch, accumulation, epochs, tmp_path / "theirs")
    assert [line["step"] for line in lines] == list(range(1, expected + 1))
    assert expected == epochs * math.ceil(math.ceil(rows / batch) / accumulation)
    assert sum(len(line["rows"]) for line in lines) == sum(micro_batches) == rows * epochs
    assert lines[-1]["epoch"] == epochs


def test_max_steps_ends_a_run_or_lengthens_it(train, tmp_path):
    for max_steps in (2, 9):  # 4 steps an epoch
        output = train(7, {"max_steps": max_steps, "gradient_accumulation_steps": 2, "log_rows": True},
                       name=f"max{max_steps}")
        lines = training_lines(output)
        expected, _ = steps_of_transformers(7, 1, 2, 1, tmp_path / "theirs", max_steps)
        assert len(lines) == expected == max_steps
        rates = rates_of_transformers("cosine", math.ceil(0.03 * max_steps), max_steps, FAST["learning_rate"])
        assert [line["learning_rate"] for line in lines] == pytest.approx(rates, rel=1e-12, abs=1e-14)


def test_every_epoch_sees_each_row_once_in_another_order(train, folder, tmp_path):
    output = train(9, {"num_train_epochs": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
                       "log_rows": True})
    lines = training_lines(output)
    rows = chatml_rows(folder, output.parent / "train.jsonl")
    assert len(lines) == 9
    orders = [sum((line["rows"] for line in lines[i : i + 3]), []) for i in (0, 3, 6)]
    for order in orders:
        assert sorted(order) == list(range(9))
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert [line["epoch"] for line in lines] == pytest.approx([(i + 1) / 3 for i in range(9)])
    for i, line in enumerate(lines):
        seen = [rows[r] for other in lines[: i + 1] for r in other["rows"]]
        assert line["tokens"] == sum(len(row.ids) for row in seen)
        assert line["supervised_tokens"] == supervised_tokens(seen)


def test_the_log_has_exactly_its_keys_and_means_over_its_steps(train):
    def no_constant(text):
        raise ValueError(f"{text} is not JSON")

    settings = {"num_train_epochs": 2, "log_rows": True, "seed": 3}
    single = train(7, settings, name="single", held_out=3)
    triple = train(7, {**settings, "logging_steps": 3}, name="triple", held_out=3)
    for output in (single, triple):
        text = (output / "metrics.jsonl").read_text(encoding="utf-8")
        assert text.endswith("\n")
        for line in text.splitlines():
            value = json.loads(line, parse_constant=no_constant)
            expected = EVALUATION_KEYS if "eval_loss" in value else TRAINING_KEYS | {"rows"}
            assert set(value) == expected
            assert all(isinstance(value[key], (int, float)) for key in expected - {"rows"})
    evaluations = [line["step"] for line in read_lines(single / "metrics.jsonl") if "eval_loss" in line]
    assert evaluations == [0, 7, 14]  # at the start and after each epoch
    ones, threes = training_lines(single), training_lines(triple)
    assert [line["step"] for line in threes] == [3, 6, 9, 12, 14]
    at = 0
    for line in threes:
        part = ones[at : line["step"]]
        assert line["loss"] == pytest.approx(sum(other["loss"] for other in part) / len(part), rel=1e-12)
        assert line["rows"] == sum((other["rows"] for other in part), [])
        assert line["grad_norm"] == part[-1]["grad_norm"] and line["learning_rate"] == part[-1]["learning_rate"]
        assert line["tokens"] == part[-1]["tokens"] and line["supervised_tokens"] == part[-1]["supervised_tokens"]
        at = line["step"]
    plain = train(3, {}, name="plain")
    assert all(set(line) == TRAINING_KEYS for line in training_lines(plain))


def adapter_of(output):
    return load_file(output / "adapter" / "adapter_model.safetensors")


def relative_l2(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def test_one_batch_of_eight_equals_eight_of_one(train):
    """The loss of a step is a mean over its tokens, however they are cut; only the order of fp32 sums differs."""
    runs = {}
    for batch, accumulation in ((1, 8), (8, 1), (3, 3)):
        runs[batch] = train(8, {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation,
                                "max_steps": 1, "warmup_steps": 0, "lr_scheduler_type": "constant", "log_rows": True,
                                "weight_decay": 0.1}, peft={"target_modules": "all-linear"}, name=f"batch{batch}")
    [one], adapter = training_lines(runs[1]), adapter_of(runs[1])
    for batch in (8, 3):
        [line] = training_lines(runs[batch])
        assert sorted(line["rows"]) == sorted(one["rows"])
        assert line["loss"] == pytest.approx(one["loss"], rel=1e-6)
        assert line["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
        for key, tensor in adapter_of(runs[batch]).items():
            assert relative_l2(tensor, adapter[key]) <= 1e-5, key


def test_micro_batches_are_filled_up_to_the_token_limit(train, folder):
    limit = 200
    output = train(20, {"num_train_epochs": 2, "log_rows": True, "gradient_accumulation_steps": 1},
                   {"max_tokens_per_batch": limit, "max_length": limit})
    rows = chatml_rows(folder, output.parent / "train.jsonl")
    lines = training_lines(output)
    sizes = [[len(rows[r].ids) for r in line["rows"]] for line in lines]
    assert all(sum(size) <= limit or len(size) == 1 for size in sizes)
    assert max(len(size) for size in sizes) > 1
    for line, size, following in zip(lines, sizes, sizes[1:]):
        if line["epoch"] != 1:  # a batch ends only where the next row would not fit, or with the epoch
            assert sum(size) + following[0] > limit
    half = len([line for line in lines if line["epoch"] <= 1])
    for part in (lines[:half], lines[half:]):
        assert sorted(sum((line["rows"] for line in part), [])) == list(range(20))
    # The schedule knew the number of steps: it ends where the cosine of that many steps ends.
    rates = rates_of_transformers("cosine", math.ceil(0.03 * len(lines)), len(lines), FAST["learning_rate"])
    assert [line["learning_rate"] for line in lines] == pytest.approx(rates, rel=1e-12, abs=1e-14)


@pytest.fixture(scope="module")
def quantized_base(folder, bin_dir, tmp_path_factory):
    states = probe(bin_dir, tmp_path_factory.mktemp("states"), model=str(folder), sequences=[[1, 2]], states=True,
                   quantization={})
    return lambda: dequantized_peer(folder, states)


@pytest.mark.parametrize("train_on", ["assistant", "all"])
def test_eval_loss_is_the_mean_over_all_supervised_tokens(train_on, train, folder, quantized_base):
    output = train(6, {"num_train_epochs": 2}, {"train_on": train_on}, held_out=12)
    rows = chatml_rows(folder, output.parent / "eval.jsonl", everything=train_on == "all")
    last = [line for line in read_lines(output / "metrics.jsonl") if "eval_loss" in line][-1]
    model = peer_from_adapter(quantized_base(), output / "adapter")
    assert last["eval_loss"] == pytest.approx(mean_loss(model, rows), rel=1e-5)
    correct = 0
    with torch.no_grad():
        for row in rows:
            best = model(torch.tensor([row.ids])).logits[0, :-1].argmax(-1)
            correct += sum(row.supervised[i + 1] and best[i].item() == row.ids[i + 1] for i in range(len(best)))
    assert last["eval_token_accuracy"] == pytest.approx(correct / supervised_tokens(rows), abs=1e-12)


def test_train_on_all_supervises_every_token_but_the_first(train, folder):
    output = train(4, {"max_steps": 1, "gradient_accumulation_steps": 4}, {"train_on": "all"},
                   quantization={"load_in_4bit": False}, peft={"init_lora_weights": True})
    rows = chatml_rows(folder, output.parent / "train.jsonl", everything=True)
    [line] = training_lines(output)
    assert line["supervised_tokens"] == sum(len(row.ids) - 1 for row in rows) == line["tokens"] - 4
    # A fresh adapter changes nothing: the base model's own loss.
    assert line["loss"] == pytest.approx(mean_loss(peer(folder), rows), rel=1e-5)


def test_the_best_model_is_the_result(train, quantized_base, folder):
    """A learning rate that spoils the model: the best evaluation is not the last, and its adapter is what is kept."""
    settings = {"num_train_epochs": 4, "learning_rate": 0.3, "lr_scheduler_type": "constant", "eval_steps": 2,
                "save_steps": 2, "save_total_limit": 1}
    output = train(8, {**settings, "load_best_model_at_end": True}, held_out=8)
    losses = {line["step"]: line["eval_loss"] for line in read_lines(output / "metrics.jsonl") if "eval_loss" in line}
    del losses[0]
    best = min(losses, key=losses.get)
    last = max(losses)
    assert best != last, "choose settings under which the run gets worse"
    saved = load_file(output / "checkpoints" / f"step-{best}" / "adapter_model.safetensors")
    result = adapter_of(output)
    assert all(torch.equal(tensor, result[key]) for key, tensor in saved.items())
    model = peer_from_adapter(quantized_base(), output / "adapter")
    rows = chatml_rows(folder, output.parent / "eval.jsonl")
    assert mean_loss(model, rows) == pytest.approx(losses[best], rel=1e-5)
    plain = train(8, settings, name="last", held_out=8)
    final = load_file(plain / "checkpoints" / f"step-{last}" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, adapter_of(plain)[key]) for key, tensor in final.items())


def file_hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def timeless(output):
    timed = {"tokens_per_second", "step_time", "memory_bytes"}
    lines = read_lines(output / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_reruns_and_memory_savers_are_byte_equal(compute_dtype, train):
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
                "weight_decay": 0.01, "log_rows": True}
    common = {
        "peft": {"target_modules": "all-linear", "lora_dropout": 0.1, "modules_to_save": ["norm"]},
        "quantization": {"bnb_4bit_compute_dtype": compute_dtype},
        "held_out": 4,
    }
    plain = train(11, settings, name="plain", **common)
    again = train(11, settings, name="again", **common)
    frugal = train(11, {**settings, "gradient_checkpointing": True}, name="frugal", **common)
    packed = train(11, {**settings, "cache_dequantized": False}, name="packed", **common)
    other = train(11, {**settings, "seed": 43}, name="other", **common)
    hashes = file_hashes(plain / "adapter")
    assert "adapter_model.safetensors" in hashes and "tokenizer.json" in hashes
    for output in (again, frugal, packed):
        assert file_hashes(output / "adapter") == hashes
        assert timeless(output) == timeless(plain)
    assert file_hashes(other / "adapter")["adapter_model.safetensors"] != hashes["adapter_model.safetensors"]
