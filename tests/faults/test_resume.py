"""A run that was stopped and resumed equals one that never was: result, checkpoints, metrics, to the byte."""

import json
import os
import random
import shutil
import signal

import pytest
from training_run import (
    FULL,
    STEPS,
    folder_difference,
    metrics,
    resume_and_compare,
    run_difference,
    steps_of,
    stop_when,
)

# After the first, at a log, a save and an evaluation (every third step has one), where an epoch of 9 steps ends, one
# step into the next, and before the last.
RESUMED = range(1, STEPS) if FULL else (1, 6, 9, 10, 19)


def go_back(experiment, reference, step):
    """The run as a process killed right after the checkpoint of `step` left it, later log lines included."""
    experiment.put_back(reference)
    shutil.rmtree(experiment.out / "adapter")
    for later in steps_of(experiment.out):
        if later > step:
            shutil.rmtree(experiment.out / f"checkpoints/step-{later}")


def test_two_runs_are_equal(experiment, every_step):
    experiment.config()
    experiment.clear()
    assert experiment.train().code == 0
    assert run_difference(experiment.out, every_step) == ""
    assert steps_of(experiment.out) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("step", RESUMED)
def test_resume_at_every_step(experiment, every_step, tally, step):
    experiment.config()
    go_back(experiment, every_step, step)
    resume_and_compare(experiment, every_step, tally, "resume at each step")


def test_metrics_are_cut_back_whatever_the_process_left(experiment, every_step, tally):
    experiment.config()
    for tail in (b'{"step":10,"epo', b"\x00" * 40, b'{"step":"x"}\n', b"[]\n", b'{"step":10}\n{"step":99}\n'):
        go_back(experiment, every_step, 9)
        with open(experiment.out / "metrics.jsonl", "ab") as file:
            file.write(tail)
        resume_and_compare(experiment, every_step, tally, "torn metrics.jsonl")


def test_a_finished_run_ends_at_once(experiment, every_step):
    experiment.config()
    experiment.put_back(every_step)
    before = {path: path.stat().st_mtime_ns for path in experiment.out.rglob("*") if path.is_file()}
    ended = experiment.train("--resume")
    assert ended.code == 0 and "already finished" in ended.text
    assert before == {path: path.stat().st_mtime_ns for path in experiment.out.rglob("*") if path.is_file()}


def test_a_finished_run_can_be_made_longer(experiment, every_step):
    """Its old result is not taken for the new one when the longer run is killed before writing its own."""
    experiment.config(max_steps=8, lr_scheduler_type="constant", warmup_steps=0)
    experiment.clear()
    assert experiment.train().code == 0
    old = (experiment.out / "adapter/adapter_model.safetensors").read_bytes()
    shutil.copytree(experiment.out / "adapter", experiment.folder / "old_result")
    assert experiment.train("--resume", training__max_steps=STEPS).code == 0
    assert [line["step"] for line in metrics(experiment.out) if "loss" in line] == list(range(1, STEPS + 1))
    new = (experiment.out / "adapter/adapter_model.safetensors").read_bytes()
    assert new != old
    shutil.rmtree(experiment.out / "adapter")
    (experiment.folder / "old_result").rename(experiment.out / "adapter")
    assert experiment.train("--resume", training__max_steps=STEPS).code == 0
    assert (experiment.out / "adapter/adapter_model.safetensors").read_bytes() == new


def test_a_folder_with_a_run_is_refused_without_resume(experiment, every_step, tally):
    experiment.config()
    experiment.put_back(every_step)
    ended = experiment.train()
    tally.add("a run in the way")
    assert ended.code == 2 and "--resume" in ended.text
    assert run_difference(experiment.out, every_step) == ""


# What may not change, and what may


def changed_data(experiment):
    rows = (experiment.folder / "train.jsonl").read_text(encoding="utf-8")
    (experiment.folder / "train.jsonl").write_text(
        rows.replace("answer 7 of 1", "answer 8 of 1", 1), encoding="utf-8"
    )


def changed_base(experiment):
    file = experiment.model / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x01
    file.write_bytes(content)


REFUSED = {
    "seed": ({"training__seed": 43}, None, "training.seed"),
    "learning rate": ({"training__learning_rate": 2e-3}, None, "training.learning_rate"),
    "accumulation": (
        {"training__gradient_accumulation_steps": 4},
        None,
        "training.gradient_accumulation_steps",
    ),
    "rank": ({"peft__r": 4}, None, "peft.r"),
    "dropout": ({"peft__lora_dropout": 0.2}, None, "peft.lora_dropout"),
    "block size": ({"quantization__bnb_4bit_blocksize": 32}, None, "quantization.bnb_4bit_blocksize"),
    "max_length": ({"data__max_length": 100}, None, "data.max_length"),
    "data": ({}, changed_data, "the training data have changed"),
    "base": ({}, changed_base, "the base model's tensors have changed"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_change_that_moves_numbers_is_refused_by_name(
    experiment, every_step, tally, small_model, tmp_path, what
):
    settings, change, named = REFUSED[what]
    experiment.config()
    go_back(experiment, every_step, 18)
    data = (experiment.folder / "train.jsonl").read_bytes()
    model, experiment.model = experiment.model, tmp_path / "model"
    shutil.copytree(small_model, experiment.model)
    if change != changed_base:
        experiment.model = model
    try:
        if change:
            change(experiment)
        experiment.config()
        ended = experiment.train("--resume", **settings)
    finally:
        (experiment.folder / "train.jsonl").write_bytes(data)
        experiment.model = model
    tally.add("changed run", "survived" if ended.code == 2 else "silent")
    assert ended.code == 2 and named in ended.text, ended.text
    assert steps_of(experiment.out) == list(range(1, 19))


def test_what_changes_no_number_may_change(experiment, every_step):
    experiment.config()
    go_back(experiment, every_step, 12)
    changes = {
        "save_steps": 4,
        "save_total_limit": 3,
        "logging_steps": 2,
        "log_rows": False,
        "sample_rows": 0,
    }
    settings = {f"training__{key}": value for key, value in changes.items()}
    ended = experiment.train("--resume", model__threads=2, **settings)
    assert ended.code == 0, ended.text
    assert folder_difference(experiment.out / "adapter", every_step / "adapter") == ""
    resumed = [line["step"] for line in metrics(experiment.out) if "loss" in line]
    assert resumed == [*range(1, 13), 14, 16, 18, 20]
    assert len(steps_of(experiment.out)) <= 4, "three and the best"


def test_changed_held_out_rows_are_named(experiment, every_step, tally):
    experiment.config()
    go_back(experiment, every_step, 18)
    rows = (experiment.folder / "eval.jsonl").read_text(encoding="utf-8")
    (experiment.folder / "eval.jsonl").write_text(rows.replace("answer", "result", 1), encoding="utf-8")
    ended = experiment.train("--resume")
    (experiment.folder / "eval.jsonl").write_text(rows, encoding="utf-8")
    tally.add("changed run")
    assert ended.code == 0 and "held-out data have changed" in ended.text


# Broken checkpoints


def test_one_flipped_bit_is_found(experiment, every_step, tally):
    """Anywhere in the newest checkpoint: it is named and set aside, and the result is the same."""
    experiment.config()
    chance = random.Random(11)
    for _ in range(500 if FULL else 5):
        go_back(experiment, every_step, 19)
        newest = experiment.out / "checkpoints/step-19"
        files = sorted(newest.iterdir())
        file = chance.choices(files, weights=[path.stat().st_size for path in files])[0]
        content = bytearray(file.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.write_bytes(content)
        ended = resume_and_compare(experiment, every_step, tally, "flipped bit")
        assert "step-19 is broken" in ended.text and "resuming after step 18" in ended.text, (
            file,
            ended.text,
        )


@pytest.mark.parametrize(
    "name",
    [
        "adapter_model.safetensors",
        "adapter_config.json",
        "optimizer.safetensors",
        "run_state.json",
        "manifest.json",
    ],
)
def test_a_missing_or_short_file_is_found(experiment, every_step, tally, name):
    experiment.config()
    # Each length of each file is a unit test of the verification (FolderFault).
    for cut in ("missing", 0, 1, -2) if FULL else ("missing", -2):  # the last byte of the manifest is a line break, which says nothing
        go_back(experiment, every_step, 17)
        file = experiment.out / "checkpoints/step-17" / name
        if cut == "missing":
            file.unlink()
        else:
            os.truncate(file, cut % file.stat().st_size)
        ended = resume_and_compare(experiment, every_step, tally, "missing or short file")
        assert "step-17 is broken" in ended.text and "resuming after step 16" in ended.text, ended.text


def test_with_no_whole_checkpoint_nothing_starts_again(experiment, every_step, tally):
    experiment.config()
    go_back(experiment, every_step, 2)
    for step in (1, 2):
        (experiment.out / f"checkpoints/step-{step}/run_state.json").write_text("{}", encoding="utf-8")
    before = (experiment.out / "metrics.jsonl").read_bytes()
    ended = experiment.train("--resume")
    tally.add("no whole checkpoint", "survived" if ended.code == 2 else "lost")
    assert ended.code == 2 and "step-1 (run_state.json has the wrong size)" in ended.text, ended.text
    assert steps_of(experiment.out) == [1, 2]
    assert (experiment.out / "metrics.jsonl").read_bytes() == before


def test_with_no_checkpoint_the_run_starts_at_the_beginning_and_says_so(experiment, every_step, tally):
    experiment.config()
    experiment.clear()
    ended = resume_and_compare(experiment, every_step, tally, "no run at all")
    assert "starts at the beginning" in ended.text


def test_a_broken_newest_checkpoint_never_pushes_out_a_whole_one(experiment, every_step, tally):
    """save_total_limit 1: pruning that counted the broken one would delete what the run has just written."""
    experiment.config()
    go_back(experiment, every_step, 19)
    for step in steps_of(experiment.out):
        if step not in (16, 19):
            shutil.rmtree(experiment.out / f"checkpoints/step-{step}")
    (experiment.out / "checkpoints/step-19/optimizer.safetensors").unlink()
    code, text, _ = stop_when(
        experiment,
        "^step 17/20",
        signal.SIGTERM,
        "--resume",
        "--set",
        "training.save_total_limit=1",
        "--set",
        "training.save_steps=100",
    )
    assert code == 143 and "step-19 is broken" in text, text
    newest = max(steps_of(experiment.out))
    assert steps_of(experiment.out) == [newest] and newest in (17, 18), "the broken one does not count"
    assert (experiment.out / "checkpoints/.broken-step-19/run_state.json").is_file(), "nor is it deleted"
    ended = experiment.train("--resume")
    assert ended.code == 0 and f"resuming after step {newest}" in ended.text, ended.text
    tally.add("broken newest, limit 1")
    assert folder_difference(experiment.out / "adapter", every_step / "adapter") == ""


def test_the_best_checkpoint_is_kept_and_is_the_result(experiment, tally):
    # At rates as high as these a run wanders: one of them does not end where it is best.
    for rate in (0.05, 0.1, 0.2, 0.5, 0.02, 1.0):
        experiment.config(
            save_total_limit=1,
            load_best_model_at_end=True,
            eval_steps=2,
            learning_rate=rate,
            lr_scheduler_type="constant",
            warmup_steps=0,
        )
        experiment.clear()
        ended = experiment.train()
        assert ended.code == 0, ended.text
        losses = {line["step"]: line["eval_loss"] for line in metrics(experiment.out) if "eval_loss" in line}
        del losses[0]
        best = min(losses, key=losses.get)
        if best != STEPS:
            break
    assert best != STEPS
    assert steps_of(experiment.out) == [best, STEPS]
    name = "adapter_model.safetensors"
    result = (experiment.out / "adapter" / name).read_bytes()
    assert result == (experiment.out / f"checkpoints/step-{best}" / name).read_bytes()
    shutil.rmtree(experiment.out / "adapter")
    (experiment.out / f"checkpoints/step-{best}/{name}").write_bytes(b"")
    ended = experiment.train("--resume")
    assert ended.code == 0 and f"step-{best}, cannot be used" in ended.text, ended.text
    assert (experiment.out / "adapter" / name).read_bytes() != result
    tally.add("broken best checkpoint")
    state = json.loads(
        (experiment.out / f"checkpoints/step-{STEPS}/run_state.json").read_text(encoding="utf-8")
    )
    assert state["state"]["best_step"] == best
