"""Bottlenecks against AdapterHub's package adapters 1.3.0: twenty steps from the package's own start, its files in both
directions, and the places of the networks in other types of models by way of bottleneck_peer.py.

bottleneck_golden holds what the package computed (bottleneck_golden.py makes it). With QLORA_FULL=1 it is made again, and
the package loads what qlora-train wrote. Bounds are those of test_training_parity.py for tiny models.
"""

import json
import subprocess

import pytest
import torch
from bottleneck_golden import CASES, GOLDEN, make_environment, options, parts, rows_hash, rows_of, run_golden, sections
from bottleneck_peer import trained, with_bottlenecks
from model_case import FULL
from peft_loop import chatml_rows, mean_loss, qlora_train, read_lines, train_peer, training_lines
from safetensors.torch import load_file
from test_model_parity import dequantized_peer, peer, probe
from test_training_parity import TINY_FP32, distance, relative, short_rows
from transformers import AutoTokenizer

RESULTS = json.loads((GOLDEN / "golden.json").read_text())["cases"]
STORED = CASES if FULL else ["llama-seq_bn", "gpt2-double_seq_bn", "gemma2-par_bn"]
FILE = "adapter.safetensors"
# Model, kind, further settings, base.
PLACES = {
    "qwen3-double": ({"model_type": "qwen3"}, {"config": "double_seq_bn", "reduction_factor": 6}, "nf4"),
    "llama-par": ({"model_type": "llama"}, {"config": "par_bn", "non_linearity": "gelu"}, "nf4"),
    "granite-double": ({"model_type": "granite", "config": {"residual_multiplier": 0.4}},
                       {"config": "double_seq_bn", "scaling": 2, "leave_out": [1]}, "dense"),
    "olmo2-par": ({"model_type": "olmo2"}, {"config": "par_bn", "init_weights": "houlsby"}, "dense"),
    "mixtral-seq": ({"model_type": "mixtral"}, {"config": "seq_bn", "non_linearity": "gelu_new"}, "dense"),
    "cohere-double": ({"model_type": "cohere"}, {"config": "double_seq_bn", "init_weights": "mam_adapter"}, "nf4"),
    "glm4-double": ({"model_type": "glm4"}, {"config": "double_seq_bn", "non_linearity": "tanh"}, "dense"),
}
PLACED = list(PLACES) if FULL else ["qwen3-double", "olmo2-par"]


def program(bin_dir, name, *arguments):
    return subprocess.run([bin_dir / name, *map(str, arguments)], capture_output=True, text=True, timeout=600)


def renamed(tensors, name):
    return {key.replace(f".adapters.{name}.", ".adapters.qlora."): value for key, value in tensors.items()}


@pytest.fixture(scope="module")
def data(root, tmp_path_factory):
    return short_rows(root, tmp_path_factory.mktemp("rows"), 60)


class StoredCase:
    """qlora-train from the package's start."""

    def __init__(self, name, tiny_model, bin_dir, data, folder):
        self.name, self.folder, self.result = name, folder, RESULTS[name]
        self.model = tiny_model(**options(name))
        self.start = load_file(GOLDEN / name / FILE)
        self.end = renamed(load_file(GOLDEN / name / "trained.safetensors"), "golden")
        run = sections(self.model, data, adapter=str(GOLDEN / name))
        self.output = qlora_train(bin_dir, folder, run, "--quiet")
        self.lines = training_lines(self.output)


@pytest.fixture(scope="module")
def stored_case(tiny_model, bin_dir, data, tmp_path_factory):
    made = {}

    def case(name):
        if name not in made:
            made[name] = StoredCase(name, tiny_model, bin_dir, data, tmp_path_factory.mktemp("stored"))
        return made[name]

    return case


@pytest.mark.parametrize("name", STORED)
def test_twenty_steps_are_those_of_adapterhub(name, stored_case, data, capsys):
    case = stored_case(name)
    assert [line["rows"] for line in case.lines] == case.result["steps"], "other rows: make the stored results again"
    assert rows_hash(rows_of(case.model, data)) == case.result["rows"], "other ids: make the stored results again"
    gaps = [relative(line["loss"], loss) for line, loss in zip(case.lines, case.result["losses"])]
    norms = [relative(line["grad_norm"], norm) for line, norm in zip(case.lines, case.result["norms"])]
    moved = distance(load_file(case.output / "adapter" / FILE), case.end, renamed(case.start, "golden"))
    with capsys.disabled():
        print(f"\n{name}: loss {case.result['losses'][0]:.4f} -> {case.result['losses'][-1]:.4f}; first {gaps[0]:.1e},"
              f" losses {max(gaps):.1e}, norms {max(norms):.1e}, adapters {moved:.1e}")
    assert case.result["losses"][-1] < 0.99 * case.result["losses"][0], "training must move the loss"
    assert gaps[0] <= TINY_FP32["first"] and max(gaps) <= TINY_FP32["loss"] and max(norms) <= TINY_FP32["norm"], (gaps, norms)
    assert moved <= TINY_FP32["adapters"]


@pytest.mark.parametrize("name", STORED)
def test_the_folder_is_as_adapterhub_writes_it(name, stored_case):
    case = stored_case(name)
    ours = load_file(case.output / "adapter" / FILE)
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {k: (v.shape, v.dtype) for k, v in case.end.items()}
    text = (case.output / "adapter" / "adapter_config.json").read_text()
    written, theirs = json.loads(text), json.loads((GOLDEN / name / "adapter_config.json").read_text())
    assert text == json.dumps(written, indent=2, sort_keys=True)
    assert {**written, "name": "", "model_name": ""} == {**theirs, "name": "", "model_name": ""}
    assert all(type(value) is type(theirs["config"][key]) for key, value in written["config"].items())


@pytest.mark.parametrize("name", STORED)
def test_what_adapterhub_trained_computes_the_same(name, stored_case, bin_dir, data):
    case = stored_case(name)
    theirs = case.folder / "theirs"
    theirs.mkdir(exist_ok=True)
    (theirs / FILE).write_bytes((GOLDEN / name / "trained.safetensors").read_bytes())
    (theirs / "adapter_config.json").write_bytes((GOLDEN / name / "adapter_config.json").read_bytes())
    lines = case.folder / "tokens.jsonl"
    done = program(bin_dir, "qlora-eval", "--model", case.model, "--adapter", theirs, "--data", data, "--template", "chatml",
                   "--set", "quantization.load_in_4bit=false", "--limit", 3, "--per-token", lines, "--quiet")
    assert done.returncode == 0, done.stderr
    for line, logprobs in zip(read_lines(lines), case.result["logprobs"], strict=True):
        assert line["logprobs"][1:] == pytest.approx(logprobs, abs=2e-5)


class PlacedCase:
    """qlora-train on another type of model."""

    def __init__(self, name, tiny_model, bin_dir, data, folder):
        settings, peft, base = PLACES[name]
        self.folder, self.bin_dir, self.data = folder, bin_dir, data
        self.model_folder = tiny_model(**settings, max_positions=512)
        self.run = sections(self.model_folder, data)
        self.run["peft"] = {"peft_type": "BOTTLENECK", **peft}
        self.run["training"] |= {"save_steps": 1, "save_total_limit": None}
        self.new_base = lambda: peer(self.model_folder)
        if base == "nf4":
            self.run["quantization"] = {"bnb_4bit_compute_dtype": "float32"}
            states = probe(bin_dir, folder, model=str(self.model_folder), sequences=[[1, 2]], states=True, quantization={})
            self.new_base = lambda: dequantized_peer(self.model_folder, states)
        self.output = qlora_train(bin_dir, folder, self.run, "--quiet")
        self.rows = chatml_rows(self.model_folder, data)
        self.lines = training_lines(self.output)

    def peer_at(self, folder):
        config = json.loads((folder / "adapter_config.json").read_text())
        return with_bottlenecks(self.new_base(), config, load_file(folder / FILE))

    def evaluated(self, *arguments):
        done = program(self.bin_dir, "qlora-eval", "--model", self.model_folder, "--adapter", self.output / "adapter", "--data",
                       self.data, "--template", "chatml", "--quiet", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def placed_case(tiny_model, bin_dir, data, tmp_path_factory):
    made = {}

    def case(name):
        if name not in made:
            made[name] = PlacedCase(name, tiny_model, bin_dir, data, tmp_path_factory.mktemp("placed"))
        return made[name]

    return case


@pytest.mark.parametrize("name", PLACED)
def test_twenty_steps_are_those_of_networks_by_hooks(name, placed_case, capsys):
    case = placed_case(name)
    model = case.peer_at(case.output / "checkpoints" / "step-1")  # the first update has a learning rate of 0
    start = trained(model)
    steps = [[case.rows[i] for i in line["rows"]] for line in case.lines]
    untrained = mean_loss(model, steps[-1])
    theirs = train_peer(model, steps, case.run["training"])
    gaps = [relative(line["loss"], step.loss) for line, step in zip(case.lines, theirs)]
    norms = [relative(line["grad_norm"], step.grad_norm) for line, step in zip(case.lines, theirs)]
    moved = distance(load_file(case.output / "adapter" / FILE), trained(model), start)
    with capsys.disabled():
        print(f"\n{name}: loss {untrained:.4f} -> {theirs[-1].loss:.4f}; first {gaps[0]:.1e}, losses {max(gaps):.1e},"
              f" norms {max(norms):.1e}, adapters {moved:.1e}")
    assert theirs[-1].loss < 0.999 * untrained, "training must move the loss"
    assert gaps[0] <= TINY_FP32["first"] and max(gaps) <= TINY_FP32["loss"] and max(norms) <= TINY_FP32["norm"], (gaps, norms)
    assert moved <= TINY_FP32["adapters"]


@pytest.mark.parametrize("name", PLACED)
def test_evaluation_and_generation_are_those_of_networks_by_hooks(name, placed_case):
    case = placed_case(name)
    model = case.peer_at(case.output / "adapter").eval()
    found = case.evaluated("--generate", "--max-new-tokens", 6, "--limit", 3, "--generations", case.folder / "g.jsonl")
    assert found["loss"] == pytest.approx(mean_loss(model, case.rows[:3]), rel=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(case.model_folder)
    stops = {tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id}
    for line, row in zip(read_lines(case.folder / "g.jsonl"), case.rows):
        ids = row.ids[: row.supervised.index(True)]
        prompt = len(ids)
        for _ in range(6):
            with torch.no_grad():
                chosen = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if chosen in stops:
                break
            ids.append(chosen)
        assert line["generated"] == tokenizer.decode(ids[prompt:], skip_special_tokens=True)


@pytest.mark.parametrize("name", PLACED[:1])
def test_a_resumed_run_ends_with_the_same_bytes(name, placed_case, tmp_path):
    case = placed_case(name)
    run = {**case.run, "training": {**case.run["training"], "save_steps": 7, "output_dir": "out",
                                    "lr_scheduler_type": "constant_with_warmup"}}
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run))
    for arguments in (("--set", "training.max_steps=7"), ("--resume",), ("--set", "training.output_dir=whole")):
        done = program(case.bin_dir, "qlora-train", "--config", file, "--quiet", *arguments)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "adapter" / FILE).read_bytes() == (tmp_path / "whole" / "adapter" / FILE).read_bytes()


def test_what_programs_say_of_it(placed_case, tmp_path):
    case = placed_case("qwen3-double")
    done = program(case.bin_dir, "qlora-merge", "--model", case.model_folder, "--adapter", case.output / "adapter", "--output",
                   tmp_path / "merged")
    assert done.returncode == 2 and "no weight can hold" in done.stderr and not (tmp_path / "merged").exists()
    run = {**case.run, "model": {**case.run["model"], "adapter": str(case.output / "adapter")},
           "peft": {"peft_type": "BOTTLENECK", "config": "par_bn"}}
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run))
    done = program(case.bin_dir, "qlora-train", "--config", file)
    assert done.returncode == 2 and 'peft.config: "par_bn" against "double_seq_bn" in the adapter' in done.stderr, done.stderr
    del run["peft"]
    del run["training"]["learning_rate"]
    run["training"] = {**run["training"], "max_steps": 1}
    file.write_text(json.dumps(run))
    done = program(case.bin_dir, "qlora-train", "--config", file, "--dry-run")
    assert done.returncode == 0 and "x attention_adapters (double_seq_bn, width" in done.stderr + done.stdout, done.stderr
    done = program(case.bin_dir, "qlora-train", "--config", file)
    assert done.returncode == 0, done.stderr
    assert "training.learning_rate: 0.0001, that of BOTTLENECK where none is given" in done.stderr
    assert f'model.load_adapter("{tmp_path / "out" / "adapter"}", use_safetensors=True, set_active=True)' in done.stderr


@pytest.fixture(scope="module")
def adapters_python(tmp_path_factory):
    return make_environment(tmp_path_factory.mktemp("adapters") / "env")


@pytest.mark.skipif(not FULL, reason="makes an environment from the package index")
def test_stored_results_are_what_the_package_computes(adapters_python, tiny_model, bin_dir, data, tmp_path):
    run_golden(adapters_python, CASES, lambda case: tiny_model(**options(case)), data, bin_dir, tmp_path, tmp_path)
    again = json.loads((tmp_path / "golden.json").read_text())["cases"]
    for name, case in again.items():
        assert case["steps"] == RESULTS[name]["steps"] and case["rows"] == RESULTS[name]["rows"]
        for key in ("losses", "norms"):
            assert case[key] == pytest.approx(RESULTS[name][key], rel=1e-6), (name, key)


@pytest.mark.skipif(not FULL, reason="makes an environment from the package index")
@pytest.mark.parametrize("name", CASES)
def test_adapterhub_loads_the_folder_and_computes_the_same(name, adapters_python, stored_case, bin_dir, data, tmp_path):
    case = stored_case(name)
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(rows_of(case.model, data)))
    script = GOLDEN.parent / "run_adapters.py"
    done = subprocess.run([adapters_python, script, "load", case.model, case.output / "adapter", rows], capture_output=True,
                          text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    ours = program(bin_dir, "qlora-eval", "--model", case.model, "--adapter", case.output / "adapter", "--data", data,
                   "--template", "chatml", "--quiet")
    assert json.loads(done.stdout)["loss"] == pytest.approx(json.loads(ours.stdout)["loss"], rel=1e-5), parts(name)
