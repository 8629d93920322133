"""The programs as a user runs them: what they print, where, and with which exit code."""

import json
import os
import pty
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file


@pytest.fixture(scope="module")
def project(root, tiny_model, tmp_path_factory):
    """A folder with configs/smoke.json, its data, and a tiny model where the configuration expects it."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("configs", "data"):
        shutil.copytree(root / name, folder / name)
    config = json.loads((folder / "configs" / "smoke.json").read_text())
    model = (folder / "configs" / config["model"]["path"]).resolve()
    model.parent.mkdir(exist_ok=True)
    shutil.copytree(tiny_model(tie=True), model)
    return folder


def run(bin_dir, program, *flags, code=0, cwd=None):
    result = subprocess.run([bin_dir / program, *map(str, flags)], capture_output=True, text=True, timeout=120, cwd=cwd)
    assert result.returncode == code, f"exit {result.returncode}: {result.stderr}"
    return result


def config_of(project):
    return project / "configs" / "smoke.json"


def output_of(project):
    config = json.loads(config_of(project).read_text())
    return (project / "configs" / config["training"]["output_dir"]).resolve()


@pytest.fixture(scope="module")
def trained(bin_dir, project):
    result = run(bin_dir, "qlora-train", "--config", config_of(project))
    return result, output_of(project)


def test_training_writes_the_files_of_a_run_and_nothing_to_stdout(trained):
    result, output = trained
    assert result.stdout == ""
    names = {path.name for path in output.iterdir()}
    assert {"adapter", "checkpoints", "metrics.jsonl", "run_config.json"} <= names
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {
        path.name for path in (output / "adapter").iterdir()}
    for line in (output / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_piped_progress_is_plain_lines(trained):
    result, _ = trained
    assert "\r" not in result.stderr and "\033" not in result.stderr
    assert "step 1/" in result.stderr and "tok/s" in result.stderr and "next: qlora-eval" in result.stderr


def test_on_a_terminal_there_is_a_bar_with_the_time_left(bin_dir, project, tmp_path):
    parent, child = pty.openpty()
    process = subprocess.Popen([bin_dir / "qlora-train", "--config", config_of(project), "--set",
                                f"training.output_dir={tmp_path / 'run'}"], stderr=child, stdout=subprocess.DEVNULL)
    os.close(child)
    shown = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    assert process.wait(60) == 0
    assert b"\r\033[K[" in shown and b"left 0:" in shown


def test_a_second_start_needs_resume_and_a_finished_run_ends_at_once(bin_dir, project, trained):
    _, output = trained
    before = (output / "metrics.jsonl").read_bytes()
    again = run(bin_dir, "qlora-train", "--config", config_of(project), code=2)
    assert "--resume" in again.stderr and again.stderr.count("\n") == 1
    resumed = run(bin_dir, "qlora-train", "--config", config_of(project), "--resume")
    assert "already finished" in resumed.stderr
    assert (output / "metrics.jsonl").read_bytes() == before


def test_evaluation_and_merge_follow_from_the_same_file(bin_dir, project, trained, tmp_path):
    _, output = trained
    config = json.loads(config_of(project).read_text())
    tuned = json.loads(run(bin_dir, "qlora-eval", "--config", config_of(project)).stdout)
    base = json.loads(run(bin_dir, "qlora-eval", "--config", config_of(project), "--base-only").stdout)
    assert tuned["loss"] < base["loss"]
    model = (project / "configs" / config["model"]["path"]).resolve()
    merged = tmp_path / "merged"
    result = run(bin_dir, "qlora-merge", "--model", model, "--adapter", output / "adapter", "--output", merged)
    assert len(result.stdout.splitlines()) == 1
    data = (project / "configs" / config["data"]["eval"]).resolve()
    flags = ["--model", merged, "--data", data]
    for setting, flag in (("template", "--template"), ("max_length", "--max-length")):
        if setting in config["data"]:
            flags += [flag, config["data"][setting]]
    of_merged = json.loads(run(bin_dir, "qlora-eval", *flags).stdout)
    # The adapter was trained on NF4 weights and merged into the original ones: near, not equal.
    assert of_merged["loss"] < base["loss"]


def evaluate(bin_dir, *flags):
    return json.loads(run(bin_dir, "qlora-eval", *flags).stdout)


def test_what_is_given_beside_the_configuration_counts_instead(bin_dir, project, trained, tiny_model, tmp_path):
    _, output = trained
    config = config_of(project)
    own, base = evaluate(bin_dir, "--config", config), evaluate(bin_dir, "--config", config, "--base-only")
    again = evaluate(bin_dir, "--config", config, "--adapter", output / "adapter", "--tokens-per-batch", 1)
    assert again["loss"] == pytest.approx(own["loss"], rel=1e-6)
    # An adapter of zeros measures as the base does.
    other = tmp_path / "other"
    shutil.copytree(output / "adapter", other)
    weights = other / "adapter_model.safetensors"
    with safe_open(weights, "numpy") as opened:
        metadata = opened.metadata()
    save_file({name: value * ("lora_A" in name) for name, value in load_file(weights).items()}, weights, metadata)
    assert evaluate(bin_dir, "--config", config, "--adapter", other)["loss"] == pytest.approx(base["loss"], rel=1e-6)
    # A flag with the value of the default counts too.
    settings = json.loads(config.read_text())
    settings["data"]["max_length"] = 60
    short = config.with_name("short.json")
    short.write_text(json.dumps(settings))
    assert evaluate(bin_dir, "--config", short)["dropped"] > 0
    assert evaluate(bin_dir, "--config", short, "--max-length", 1024)["dropped"] == 0
    twice = run(bin_dir, "qlora-eval", "--config", config, "--set", "data.max_length=60", "--max-length", 1024, code=2)
    assert "--max-length: is given besides --set data.max_length" in twice.stderr
    model = tiny_model(tie=True, seed=3)
    assert evaluate(bin_dir, "--config", config, "--base-only", "--model", model)["loss"] != base["loss"]
    refused = run(bin_dir, "qlora-eval", "--config", config, "--model", model, code=2)
    assert "was trained on another base" in refused.stderr


def test_training_goes_on_from_an_adapter_of_the_same_base_only(bin_dir, project, trained, tiny_model, tmp_path):
    config = json.loads(config_of(project).read_text())
    del config["peft"]
    config["model"] |= {"path": str(tiny_model(tie=True, seed=3)), "adapter": str(trained[1] / "adapter")}
    config["training"]["output_dir"] = str(tmp_path / "run")
    file = config_of(project).with_name("other_base.json")
    file.write_text(json.dumps(config))
    refused = run(bin_dir, "qlora-train", "--config", file, code=2)
    assert "was trained on another base" in refused.stderr and not (tmp_path / "run").exists()


def test_set_stands_without_a_configuration_too(bin_dir, project, tiny_model):
    flags = ["--model", tiny_model(), "--data", project / "data" / "wordnet_eval.jsonl", "--template", "chatml"]
    assert evaluate(bin_dir, *flags)["dropped"] == 0
    assert evaluate(bin_dir, *flags, "--set", "data.max_length=60")["dropped"] > 0
    dense, packed = (evaluate(bin_dir, *flags, "--set", f"quantization.load_in_4bit={value}") for value in ("false", "true"))
    assert dense["loss"] != packed["loss"] == evaluate(bin_dir, *flags, "--quantization", "nf4")["loss"]
    wrong = run(bin_dir, "qlora-eval", *flags, "--set", "data.overlong=cut", "--set", "training.seed=1", code=2)
    assert "data.overlong: must be one of" in wrong.stderr and 'unknown section "training"' in wrong.stderr


@pytest.mark.parametrize("flags,words", [
    (["--adapter", "no-such-folder"], ["--adapter: there is no no-such-folder"]),
    (["--base-only", "--adapter", "."], ["--base-only: measures without an adapter"]),
    (["--device", "gpu"], ["--device: must be auto, cpu, cuda or cuda:N", "not \"gpu\""]),
    (["--device", "cuda:007"], ["--device", "not \"cuda:007\""]),
    (["--device", "cuda:-1"], ["--device", "not \"cuda:-1\""]),
    (["--device", "cuda:99999999999"], ["--device", "not \"cuda:99999999999\""]),
    (["--set", "model.device=cuda:007"], ["model.device", "not \"cuda:007\""]),
    (["--device", "gpu", "--adapter", "none", "--format", "alpacca"], ["3 faults", "--adapter", "--device", "--format"]),
])
def test_flags_beside_a_configuration_are_checked(bin_dir, project, trained, flags, words):
    refused = run(bin_dir, "qlora-eval", "--config", config_of(project), *flags, code=2)
    for word in words:
        assert word in refused.stderr
    assert "report it" not in refused.stderr


def test_dry_run_prints_the_plan_and_leaves_nothing(bin_dir, project, tmp_path):
    result = run(bin_dir, "qlora-train", "--config", config_of(project), "--dry-run", "--set",
                 f"training.output_dir={tmp_path / 'none'}")
    for word in ("TRAIN |", "q_proj", "trainable parameters", "planned peak memory", "recomputes none", "lengths in tokens", "template"):
        assert word in result.stdout
    assert not (tmp_path / "none").exists()


# A system field with history, one beside ShareGPT's turns, an answer that is switched off.
USED_FIELDS = """\
{"instruction":"And its capital?","input":"","output":"Oslo.","system":"Answer in one word.","history":[["Name a country in the north.","Norway."]]}
{"conversations":[{"from":"human","value":"Who are you?"},{"from":"gpt","value":"A pirate, arr."}],"system":"You speak like a pirate.","tools":"[]"}
{"messages":[{"role":"user","content":"What is two plus two?"},{"role":"assistant","content":"It is five.","weight":0},{"role":"user","content":"Look again."},{"role":"assistant","content":"It is four.","weight":1}]}
"""  # fmt: skip
# What ChatML has no place for.
UNWRITTEN_FIELDS = """\
{"messages":[{"role":"user","content":"w?"},{"role":"assistant","content":"cold"}],"tools":[{"type":"function","function":{"name":"w","description":"weather","parameters":{}}}]}
{"messages":[{"role":"user","content":"2+2?"},{"role":"assistant","content":"4.","reasoning_content":"Two and two make four."}]}
"""  # fmt: skip


def test_a_field_that_changes_what_is_trained_is_used_or_refused(bin_dir, project, tmp_path):
    data = tmp_path / "rows.jsonl"
    flags = ["--config", config_of(project), "--dry-run", "--set", f"data.train={data}", "--set", "data.eval=null", "--set", "data.template=chatml"]
    data.write_text(USED_FIELDS)
    shown = run(bin_dir, "qlora-train", *flags).stdout
    rows = re.split(r"\nrow \d ", shown)[1:]
    # The pieces of the texts, joined again.
    texts = ["".join(re.findall(r'"((?:[^"\\]|\\.)*)"', row)) for row in rows]
    assert len(rows) == 3
    assert "Answer in one word." in texts[0] and "Norway." in texts[0]
    assert "You speak like a pirate." in texts[1]
    assert "61 tokens, trained on 7\n" in rows[2]
    data.write_text(UNWRITTEN_FIELDS)
    refused = run(bin_dir, "qlora-train", *flags, code=2).stderr
    assert re.search(r"rows\.jsonl:1: the template chatml does not write .* \(tools\)", refused)
    assert re.search(r"rows\.jsonl:2: the template chatml does not write .* \(reasoning_content\)", refused)


def test_columns_are_named_and_what_is_passed_over_is_said_once(bin_dir, project, tmp_path):
    rows = [{"frage": f"{i}?", "antwort": str(i), "quelle": "x"} for i in range(3)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"frage": "3?", "antwort": "3"}]))
    flags = ["--config", config_of(project), "--dry-run", "--set", f"data.train={data}", "--set", "data.eval=null"]
    columns = json.dumps({"prompt": "frage", "completion": "antwort"})
    result = run(bin_dir, "qlora-train", *flags, "--set", f"data.columns={columns}")
    assert "read 4 = kept 4" in result.stdout
    assert (result.stdout + result.stderr).count('training data: fields passed over: "quelle" (3 rows)') == 1
    for wrong in ('{"frage": "prompt"}', '{"prompt": "a", "completion": "a"}', '["prompt"]'):
        assert "data.columns: " in run(bin_dir, "qlora-train", *flags, "--set", f"data.columns={wrong}", code=2).stderr


@pytest.mark.parametrize("peft", [
    {},
    {"target_modules": "all-linear", "rank_pattern": {"q_proj": 3}},
    {"modules_to_save": ["lm_head", "embed_tokens", "norm"], "target_modules": ["v_proj"]},
    {"bias": "all", "target_modules": ["k_proj"]},
    {"bias": "lora_only", "target_modules": ["k_proj"]},
])
def test_the_dry_run_counts_what_training_trains(bin_dir, project, tiny_model, tmp_path, peft):
    config = json.loads(config_of(project).read_text())
    config["model"]["path"] = str(tiny_model(model_type="qwen2"))
    config["peft"] = peft
    for name in ("train", "eval"):
        config["data"][name] = str((project / "configs" / config["data"][name]).resolve())
    config["training"].update(output_dir=str(tmp_path / "run"), max_steps=1, eval_on_start=False)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(config))
    planned = re.search(r"trainable parameters: (\d+) of (\d+)", run(bin_dir, "qlora-train", "--config", file, "--dry-run").stdout)
    trained = re.search(r"(\d+) trainable of (\d+) parameters", run(bin_dir, "qlora-train", "--config", file).stderr)
    assert planned.groups() == trained.groups()
    shapes = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert int(planned[1]) == sum(tensor.size for tensor in shapes.values())


def test_all_faults_of_a_configuration_come_together(bin_dir, project, tmp_path):
    config = json.loads(config_of(project).read_text())
    config["training"]["learning_rat"] = 1
    config["peft"]["r"] = 0
    config["data"]["max_length"] = "long"
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(config))
    result = run(bin_dir, "qlora-train", "--config", bad, code=2)
    for word in ("training.learning_rat", "learning_rate", "peft.r", "data.max_length", "bad.json"):
        assert word in result.stderr
    assert "terminate" not in result.stderr


def test_what_is_not_there_is_named_together_with_other_faults(bin_dir, project, trained):
    config = json.loads(config_of(project).read_text())
    config["model"] |= {"path": "no_model", "adapter": "no_adapter"}
    config["data"] |= {"train": ["../data/none.jsonl", config["data"]["train"]], "eval": "no_eval.jsonl"}
    bad = config_of(project).with_name("bad.json")
    bad.write_text(json.dumps(config))
    result = run(bin_dir, "qlora-train", "--config", bad, "--set", "training.seed=-1", code=2)
    for path in ("configs/no_model", "configs/no_adapter", "data/none.jsonl", "configs/no_eval.jsonl"):
        assert f"there is no {project / path}\n" in result.stderr
    assert "6 faults" in result.stderr and "training.seed" in result.stderr and "add --resume" in result.stderr
    dry = run(bin_dir, "qlora-train", "--config", bad, "--dry-run", code=2)
    assert "4 faults" in dry.stderr and "--resume" not in dry.stderr


def test_a_wrong_target_names_the_near_ones(bin_dir, project, tmp_path):
    result = run(bin_dir, "qlora-train", "--config", config_of(project), "--set", 'peft.target_modules=["q_prj"]', "--set",
                 f"training.output_dir={tmp_path / 'run'}", code=2)
    assert "q_prj" in result.stderr and "q_proj" in result.stderr


def test_bad_rows_stop_a_run_or_are_listed(bin_dir, project, tmp_path):
    data = tmp_path / "rows.jsonl"
    good = json.dumps({"messages": [{"role": "user", "content": "안녕"}, {"role": "assistant", "content": "안녕하세요"}]})
    data.write_text("\n".join([good, "{cut", good, '{"messages": []}', good]) + "\n")
    output = tmp_path / "run"
    flags = ["--config", config_of(project), "--set", f"data.train={data}", "--set", f"training.output_dir={output}"]
    stopped = run(bin_dir, "qlora-train", *flags, code=2)
    assert f"{data}:2" in stopped.stderr and f"{data}:4" in stopped.stderr
    skipped = run(bin_dir, "qlora-train", *flags, "--resume", "--set", "data.on_bad_row=skip")
    assert "read 5 = kept 3 + dropped 0 + rejected 2" in skipped.stderr
    faults = [json.loads(line)["fault"] for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert [fault.split(": ")[0] for fault in faults] == [f"{data}:2", f"{data}:4"]


@pytest.mark.parametrize("program", ["qlora-train", "qlora-eval", "qlora-merge", "qlora-quantize", "qlora-data"])
def test_help_and_version(bin_dir, program):
    shown = run(bin_dir, program, "--help").stdout
    assert "--help-config" in shown and "--verbose" in shown and "--quiet" in shown
    version = run(bin_dir, program, "--version").stdout
    assert program in version and "LibTorch 2.11" in version and "CUDA" in version
    assert "learning_rate" in run(bin_dir, program, "--help-config").stdout


def test_programs_that_measure_a_model_take_the_same_flags(bin_dir):
    evaluates, looks = (run(bin_dir, program, "--help").stdout for program in ("qlora-eval", "qlora-data"))
    for flag in ("--model", "--adapter", "--quantization", "--device", "--tokens-per-batch"):
        said = [re.search(rf"^ +{flag} (.*?)(?=^ +--|\Z)", text, re.M | re.S) for text in (evaluates, looks)]
        assert said[0] and said[1] and said[0][1].split() == said[1][1].split()
    assert "--score " in looks and "--score-rows " in looks


@pytest.mark.parametrize("capability,kernels", [("default", "portable"), ("avx2", "avx2"), ("avx512", "avx512")])
def test_the_kernels_keep_to_what_libtorch_is_told(bin_dir, monkeypatch, capability, kernels):
    """So that the figures of an older processor can be had on a newer one."""
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    fastest = run(bin_dir, "qlora-train", "--version").stdout.partition("CPU kernels: ")[2].partition(",")[0]
    order = ["portable", "avx2", "avx512"]
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    used = min(kernels, fastest, key=order.index)
    assert f"CPU kernels: {used}," in run(bin_dir, "qlora-train", "--version").stdout


def test_quiet_says_nothing_when_all_is_well(bin_dir, project, tmp_path):
    result = run(bin_dir, "qlora-train", "--config", config_of(project), "--quiet", "--set",
                 f"training.output_dir={tmp_path / 'run'}")
    assert result.stdout == "" and result.stderr == ""


def test_each_configuration_is_one_a_program_accepts(bin_dir, root):
    for config in sorted((root / "configs").glob("*.json")):
        result = subprocess.run([bin_dir / "qlora-train", "--config", config, "--dry-run"], capture_output=True, text=True,
                                timeout=120)
        # A model that is not on this machine may be the only fault.
        is_sound = result.returncode == 0 or f"error: {config}: model.path: there is no " in result.stderr
        assert is_sound, f"{config.name}: {result.stderr}"
