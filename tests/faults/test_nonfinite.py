"""Numbers that are not finite, or dead: found at once, named with their rows, never saved or passed on.

Faults in gradients and moments, which no file can carry, are in tests/train/nonfinite_test.cpp.
"""

import json
import re
import shutil
import struct

import pytest
from training_run import metrics, steps_of

NAN, INF = float("nan"), float("inf")
RUN = {"max_steps": 12, "save_steps": 1, "sample_rows": 0, "eval_steps": 4}


def tensors_of(file):
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return {name: (entry, 8 + length + entry["data_offsets"][0]) for name, entry in header.items()}


def set_value(file, tensor, place, value):
    """Writes one element of an F32 tensor; a negative place counts from the end."""
    entry, begin = tensors_of(file)[tensor]
    assert entry["dtype"] == "F32"
    count = (entry["data_offsets"][1] - entry["data_offsets"][0]) // 4
    data = bytearray(file.read_bytes())
    struct.pack_into("<f", data, begin + 4 * (place % count), value)
    file.write_bytes(data)


def finite_files(run):
    """Every number in every safetensors file of a run is finite; their number."""
    numpy = pytest.importorskip("numpy")
    count = 0
    for file in run.rglob("*.safetensors"):
        data = file.read_bytes()
        for entry, begin in tensors_of(file).values():
            size = entry["data_offsets"][1] - entry["data_offsets"][0]
            assert numpy.isfinite(numpy.frombuffer(data[begin : begin + size], "<f4")).all(), file
            count += 1
    return count


@pytest.fixture
def other_model(experiment, small_model, tmp_path):
    """A copy of the base whose tensors may be damaged; the experiment uses it."""
    folder = tmp_path / "model"
    shutil.copytree(small_model, folder)
    experiment.model = folder
    yield folder / "model.safetensors"
    experiment.model = small_model


BASE_TENSORS = (
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.mlp.down_proj.weight",
    "model.layers.1.input_layernorm.weight",
    "model.norm.weight",
    "lm_head.weight",
)


@pytest.mark.parametrize("tensor", BASE_TENSORS)
def test_a_base_with_one_bad_value_is_refused(experiment, other_model, tally, tensor):
    experiment.config(**RUN)
    original = other_model.read_bytes()
    for value, place in ((NAN, 0), (INF, -1), (-INF, 77)):
        for settings in ({}, {"quantization__load_in_4bit": False}):
            other_model.write_bytes(original)
            set_value(other_model, tensor, place, value)
            experiment.clear()
            ended = experiment.train(**settings)
            tally.add("base tensor", "survived" if ended.code == 2 else "silent")
            assert ended.code == 2 and tensor in ended.text and "not finite" in ended.text, ended.text
            assert not experiment.out.exists(), "a run that came to nothing leaves nothing"


def test_an_adapter_with_one_bad_value_is_refused(experiment, tally):
    experiment.config(**RUN | {"max_steps": 2})
    experiment.clear()
    assert experiment.train().code == 0
    adapter = experiment.folder / "adapter"
    shutil.rmtree(adapter, ignore_errors=True)
    shutil.copytree(experiment.out / "adapter", adapter)
    file = adapter / "adapter_model.safetensors"
    original = file.read_bytes()
    experiment.config(**RUN)
    config = json.loads((experiment.folder / "run.json").read_text(encoding="utf-8"))
    config["model"]["adapter"] = "adapter"
    del config["peft"]
    (experiment.folder / "run.json").write_text(json.dumps(config), encoding="utf-8")
    names = list(tensors_of(file))
    for name in (names[0], names[-1]):
        for value in (NAN, INF):
            file.write_bytes(original)
            set_value(file, name, 3, value)
            experiment.clear()
            ended = experiment.train()
            tally.add("adapter tensor", "survived" if ended.code == 2 else "silent")
            assert ended.code == 2 and name in ended.text and "finite" in ended.text, ended.text
    file.write_bytes(original)
    experiment.clear()
    assert experiment.train().code == 0, "the whole one is taken"


def stops_with_rows_named(experiment, ended, tally, name):
    """Exit 3 after three bad steps in a row, each with its rows; checkpoints are of good steps, finite."""
    bad = [int(step) for step in re.findall(r"error: step (\d+): .*no update is made", ended.text)]
    tally.add(name, "survived" if ended.code == 3 else "silent")
    assert ended.code == 3 and len(bad) == 3 and bad == list(range(bad[0], bad[0] + 3)), ended.text
    assert f"stopped at step {bad[-1]}" in ended.text and "model.adapter" in ended.text
    assert len(re.findall(r"train\.jsonl:\d+", ended.text)) == 3 * 4, "four rows a step"
    assert steps_of(experiment.out) == list(range(1, bad[0])) and not (experiment.out / "adapter").exists()
    lines = [line for line in metrics(experiment.out) if "loss" in line]
    assert [line["step"] for line in lines if line["loss"] is None] == bad
    finite_files(experiment.out)
    return bad[0]


def test_a_loss_that_is_not_finite_stops_the_run(experiment, other_model, tally):
    """A head of huge finite numbers: every logit overflows, from the first step on."""
    entry, _ = tensors_of(other_model)["lm_head.weight"]
    for place in range(0, entry["shape"][1]):
        set_value(other_model, "lm_head.weight", place, 3e38)
    experiment.config(**RUN)
    experiment.clear()
    ended = experiment.train()
    assert stops_with_rows_named(experiment, ended, tally, "loss") == 1
    evaluations = [line for line in metrics(experiment.out) if "eval_loss" in line]
    assert evaluations[0]["eval_loss"] is None and "held-out loss" in ended.text


@pytest.mark.parametrize("rate", [1e3, 1e6, 1e30])
def test_a_huge_learning_rate_stops_the_run(experiment, tally, rate):
    """1e3 kills all activations (the gradient is zero at the loss of a blind guess), 1e30 makes NaN."""
    experiment.config(**RUN | {"learning_rate": rate})
    experiment.clear()
    first = stops_with_rows_named(experiment, experiment.train(), tally, "learning rate")
    assert 2 < first < 6
    assert finite_files(experiment.out) > 0
    # What is there is whole: a resume does the same steps and comes to the same end.
    again = experiment.train("--resume")
    stops_with_rows_named(experiment, again, tally, "learning rate, resumed")


def test_updates_beyond_the_range_of_floats_are_not_saved(experiment, tally):
    """The very update that makes a parameter infinite ends the run."""
    experiment.config(**RUN | {"learning_rate": 1e39, "lr_scheduler_type": "constant", "warmup_steps": 0})
    experiment.clear()
    ended = experiment.train()
    tally.add("update", "survived" if ended.code == 3 else "silent")
    assert ended.code == 3 and "lora_B.weight" in ended.text, ended.text
    assert steps_of(experiment.out) == [] and finite_files(experiment.out) == 0


def test_an_adapter_without_a_gradient_is_named(experiment, other_model, tally):
    """A layer whose output is multiplied by zeros: its adapters would stay what they are, unnoticed. The others learn."""
    data = bytearray(other_model.read_bytes())
    for name in ("model.layers.1.mlp.down_proj.weight", "model.layers.1.self_attn.o_proj.weight"):
        entry, begin = tensors_of(other_model)[name]
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        data[begin : begin + size] = bytes(size)
    other_model.write_bytes(data)
    experiment.config(**RUN)
    experiment.clear()
    ended = experiment.train(peft__target_modules=["up_proj"])
    tally.add("no gradient", "survived" if "no gradient" in ended.text else "silent")
    assert ended.code == 0 and "1 of 2 lora_B are still zero, so these adapters get no gradient" in ended.text, ended.text
    assert "layers.1.mlp.up_proj.lora_B" in ended.text and "layers.0.mlp.up_proj.lora_B" not in ended.text


def test_rows_without_supervised_tokens_make_no_number_of_nothing(experiment, tally):
    """Empty answers still have their end token; rows that max_length cuts it off from are dropped."""
    experiment.config(**RUN)
    experiment.clear()
    ended = experiment.train(data__max_length=16, data__overlong="truncate")
    tally.add("nothing to learn from")
    if ended.code == 0:
        assert all(line.get("loss", 1.0) is not None for line in metrics(experiment.out))
        assert finite_files(experiment.out) > 0
    else:
        assert ended.code == 2 and "error:" in ended.text, ended.text
