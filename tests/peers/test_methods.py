"""Methods besides plain LoRA against peft: twenty steps on the same rows from the same start, the adapter's file in both
directions, generation, merging, and a run that stops and goes on.

Both begin with the values that qlora-train drew: its first update has a learning rate of 0, so its first checkpoint holds
them. peft's model takes them by name, since what it saves of an encoder is the encoder's result alone. Bounds are those of
test_training_parity.py for tiny models. Generation is compared with a loop of whole forward passes through peft: its own
generate is wrong for virtual tokens with transformers 5.24 (a renamed argument inserts them again at every step).
"""

import json
import re
import subprocess

import peft
import pytest
import torch
from model_case import FULL
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft_loop import chatml_rows, mean_loss, padded, qlora_train, read_lines, train_peer, training_lines
from safetensors.torch import load_file
from test_model_parity import dequantized_peer, peer, probe
from test_training_parity import TINY_FP32, TRAINING, distance, relative, short_rows
from transformers import AutoTokenizer

VIRTUAL = {"num_virtual_tokens": 5}
TABLES = {"r": 4, "lora_alpha": 8, "target_modules": ["embed_tokens", "lm_head", "v_proj"]}
METHODS = {
    "tables": {**TABLES, "use_rslora": True, "rank_pattern": {"lm_head": 6}, "alpha_pattern": {"embed_tokens": 3}},
    "tables-tied": TABLES,
    "tables-shared": {**TABLES, "ensure_weight_tying": True},  # test_table_lora.py
    "head": {"r": 4, "target_modules": ["lm_head"], "lora_bias": True},
    "embedding": {"r": 4, "target_modules": ["embed_tokens"], "init_lora_weights": False},
    "dora": {"use_dora": True, "r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
    "dora-rslora": {"use_dora": True, "r": 4, "target_modules": ["q_proj"], "use_rslora": True},
    "lora-bias": {"lora_bias": True, "r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
    "ia3": {"peft_type": "IA3"},
    "ia3-whole": {"peft_type": "IA3", "target_modules": ["q_proj", "o_proj", "up_proj"],
                  "feedforward_modules": ["o_proj"], "modules_to_save": ["norm"], "init_ia3_weights": False},
    "prompt": {"peft_type": "PROMPT_TUNING", **VIRTUAL},
    "prompt-random": {"peft_type": "PROMPT_TUNING", **VIRTUAL, "prompt_tuning_init": "RANDOM"},
    "prompt-text": {"peft_type": "PROMPT_TUNING", **VIRTUAL, "prompt_tuning_init": "TEXT",
                    "prompt_tuning_init_text": "Say what the word means."},
    "p-mlp": {"peft_type": "P_TUNING", **VIRTUAL, "encoder_hidden_size": 24},
    "p-lstm": {"peft_type": "P_TUNING", **VIRTUAL, "encoder_hidden_size": 24,
               "encoder_reparameterization_type": "LSTM"},
    "prefix": {"peft_type": "PREFIX_TUNING", **VIRTUAL},
    "prefix-zero": {"peft_type": "PREFIX_TUNING", **VIRTUAL, "init_weights": "zero"},
    "prefix-projection": {"peft_type": "PREFIX_TUNING", **VIRTUAL, "prefix_projection": True, "encoder_hidden_size": 20},
}
RUNS = [(method, base) for method in METHODS if method != "tables-shared" for base in ("nf4", "dense")] if FULL else [
    ("tables-tied", "nf4"), ("dora", "nf4"), ("lora-bias", "dense"), ("ia3", "nf4"), ("ia3-whole", "dense"), ("prompt", "nf4"),
    ("prompt-text", "dense"), ("p-mlp", "dense"),
    ("p-lstm", "nf4"), ("prefix", "dense"), ("prefix-projection", "nf4")]
MERGEABLE = ("tables", "tables-tied", "head", "embedding", "dora", "dora-rslora", "lora-bias", "ia3", "ia3-whole")
# A head with a bias, to which that of an adapter can be merged; an embedding with a scale, tied to the head.
MODELS = {"lora-bias": {"model_type": "llama", "bias": True}, "head": {"model_type": "phi"},
          "tables-tied": {"model_type": "gemma", "tie": True}, "tables-shared": {"model_type": "gemma", "tie": True}}
STEPS = TRAINING["max_steps"]


def sections(folder, data, method, quantization, **training):
    return {
        "model": {"path": str(folder), "device": "cpu"},
        "quantization": quantization,
        "peft": METHODS[method],
        "data": {"train": str(data), "max_length": 512, "template": "chatml"},
        "training": {**TRAINING, "learning_rate": 5e-3, "save_steps": 1, "save_total_limit": None, **training},
    }


def peft_model(base, adapter, checkpoint):
    """peft's model for the configuration that we wrote, with the trained tensors of a checkpoint."""
    config = peft.PeftConfig.from_pretrained(adapter)
    config.inference_mode = False
    model = get_peft_model(base, config)
    parameters = checkpoint / "parameters.safetensors"
    tensors = load_file(parameters if parameters.exists() else checkpoint / "adapter_model.safetensors")
    if "prompt_embeddings" in tensors:
        tensors = {"prompt_encoder.default.embedding.weight": tensors["prompt_embeddings"]}
    if not any(key.startswith("prompt_encoder") for key in tensors):
        loaded = set_peft_model_state_dict(model, tensors)
        assert not loaded.unexpected_keys
        return model
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name: tuple(p.shape) for name, p in trained.items()} == {k: tuple(v.shape) for k, v in tensors.items()}
    with torch.no_grad():
        for name, value in tensors.items():
            trained[name].copy_(value)
    return model


def saved_tensors(model):
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {key: value.detach().clone() for key, value in tensors.items()}


class MethodCase:
    """One method on one base, trained by qlora-train and by peft."""

    def __init__(self, method, base, root, tiny_model, bin_dir, folder):
        self.method, self.bin_dir, self.folder = method, bin_dir, folder
        self.model_folder = tiny_model(**MODELS.get(method, {"model_type": "qwen2"}), max_positions=512)
        self.data = short_rows(root, folder, 60)
        if base == "nf4":
            self.quantization = {"bnb_4bit_compute_dtype": "float32"}
            states = probe(bin_dir, folder, model=str(self.model_folder), sequences=[[1, 2]], states=True, quantization={})
            self.new_base = lambda: dequantized_peer(self.model_folder, states)
        else:
            self.quantization = {"load_in_4bit": False}
            self.new_base = lambda: peer(self.model_folder)
        self.run = sections(self.model_folder, self.data, method, self.quantization)
        self.output = qlora_train(bin_dir, folder, self.run, "--quiet")
        self.adapter = self.output / "adapter"
        self.rows = chatml_rows(self.model_folder, self.data)
        self.lines = training_lines(self.output)

    def steps(self):
        return [[self.rows[i] for i in line["rows"]] for line in self.lines]

    def program(self, name, *arguments):
        done = subprocess.run([self.bin_dir / name, *map(str, arguments)], capture_output=True, text=True, timeout=600)
        return done

    def evaluated(self, *arguments):
        done = self.program("qlora-eval", "--model", self.model_folder, "--adapter", self.adapter, "--data", self.data,
                            "--template", "chatml", "--quiet", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def method_case(root, tiny_model, bin_dir, tmp_path_factory):
    made = {}

    def case(method, base):
        if (method, base) not in made:
            made[method, base] = MethodCase(method, base, root, tiny_model, bin_dir, tmp_path_factory.mktemp("method"))
        return made[method, base]

    return case


@pytest.mark.parametrize("method,base", RUNS)
def test_twenty_steps_are_those_of_peft(method, base, method_case, capsys):
    case = method_case(method, base)
    model = peft_model(case.new_base(), case.adapter, case.output / "checkpoints" / "step-1")
    start = saved_tensors(model)
    untrained = mean_loss(model, case.steps()[-1])
    theirs = train_peer(model, case.steps(), case.run["training"])
    gaps = [relative(line["loss"], step.loss) for line, step in zip(case.lines, theirs)]
    norms = [relative(line["grad_norm"], step.grad_norm) for line, step in zip(case.lines, theirs)]
    ours, end = load_file(case.adapter / "adapter_model.safetensors"), saved_tensors(model)
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {k: (v.shape, v.dtype) for k, v in end.items()}
    moved = distance(ours, end, start)
    with capsys.disabled():
        print(f"\n{method} {base}: loss {theirs[0].loss:.4f} -> {theirs[-1].loss:.4f}, untrained {untrained:.4f}; first"
              f" {gaps[0]:.1e}, losses {max(gaps):.1e}, norms {max(norms):.1e}, adapters {moved:.1e}")
    assert relative(theirs[-1].loss, untrained) > 1e-3, "training must move the loss"
    assert gaps[0] <= TINY_FP32["first"] and max(gaps) <= TINY_FP32["loss"] and max(norms) <= TINY_FP32["norm"], (gaps, norms)
    assert moved <= TINY_FP32["adapters"]


@pytest.mark.parametrize("method,base", RUNS)
def test_peft_loads_the_file_and_computes_the_same(method, base, method_case):
    case = method_case(method, base)
    model = PeftModel.from_pretrained(case.new_base(), case.adapter)
    ours = case.evaluated()["loss"]
    assert ours == pytest.approx(mean_loss(model, case.rows), rel=1e-5)
    # And back: what peft writes of it is the same adapter to us.
    again = case.folder / "again"
    model.save_pretrained(again)
    theirs = set(load_file(again / "adapter_model.safetensors"))
    # Besides, it holds the base's own embedding and head where they are targets.
    carried = {key for key in theirs if re.search(r"(embed_tokens|lm_head)\.base_layer\.\w+$", key)}
    assert bool(carried) == ("embed_tokens" in str(METHODS[method]) or "lm_head" in str(METHODS[method]))
    assert theirs - carried == set(load_file(case.adapter / "adapter_model.safetensors"))
    settings = {"load_in_4bit": True, **case.quantization}  # peft's file does not say what it was trained on
    done = case.program("qlora-eval", "--model", case.model_folder, "--adapter", again, "--data", case.data, "--template",
                        "chatml", "--quiet", *(word for name, value in settings.items()
                                               for word in ("--set", f"quantization.{name}={json.dumps(value)}")))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["loss"] == pytest.approx(ours, rel=1e-6)


@pytest.mark.parametrize("method,base", RUNS)
def test_generation_is_that_of_whole_forward_passes(method, base, method_case):
    case = method_case(method, base)
    case.evaluated("--generate", "--max-new-tokens", "6", "--limit", "3", "--generations", case.folder / "g.jsonl")
    model = PeftModel.from_pretrained(case.new_base(), case.adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(case.model_folder)
    stops = {tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id}
    for line, row in zip(read_lines(case.folder / "g.jsonl"), case.rows):
        ids = row.ids[: row.supervised.index(True)]
        prompt = len(ids)
        for _ in range(6):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0, -1]
            if int(logits.argmax()) in stops:
                break
            ids.append(int(logits.argmax()))
        assert line["generated"] == tokenizer.decode(ids[prompt:], skip_special_tokens=True)


@pytest.mark.parametrize("method,base", RUNS)
def test_a_resumed_run_ends_with_the_same_bytes(method, base, method_case, tmp_path):
    case = method_case(method, base)
    run = sections(case.model_folder, case.data, method, case.quantization, save_steps=7)
    file = tmp_path / "run.json"
    run["training"]["output_dir"] = "out"
    file.write_text(json.dumps(run))
    for arguments in (("--set", "training.max_steps=7", "--set", "training.lr_scheduler_type=constant_with_warmup"),
                      ("--resume", "--set", "training.lr_scheduler_type=constant_with_warmup")):
        done = case.program("qlora-train", "--config", file, "--quiet", *arguments)
        assert done.returncode == 0, done.stderr
    whole = tmp_path / "whole"
    done = case.program("qlora-train", "--config", file, "--quiet", "--set", "training.output_dir=" + str(whole), "--set",
                        "training.lr_scheduler_type=constant_with_warmup")
    assert done.returncode == 0, done.stderr
    name = "adapter_model.safetensors"
    assert (tmp_path / "out" / "adapter" / name).read_bytes() == (whole / "adapter" / name).read_bytes()


@pytest.mark.parametrize("method,base", RUNS)
def test_merging(method, base, method_case):
    case = method_case(method, base)
    merged = case.folder / "merged"
    done = case.program("qlora-merge", "--model", case.model_folder, "--adapter", case.adapter, "--output", merged,
                        "--dtype", "float32")
    if method not in MERGEABLE:
        assert done.returncode == 2 and "no weight can hold" in done.stderr and not merged.exists()
        return
    assert done.returncode == 0, done.stderr
    unmerged = PeftModel.from_pretrained(peer(case.model_folder), case.adapter)
    batch = padded(case.rows[:4])
    with torch.no_grad():
        expected = unmerged.eval()(**batch).logits[batch["attention_mask"].bool()]
        found = peer(merged).eval()(**batch).logits[batch["attention_mask"].bool()]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_run_says_which_learning_rate_it_took(method_case, tmp_path):
    case = method_case("prompt", "nf4")
    run = {**case.run, "training": {**case.run["training"], "output_dir": str(tmp_path / "out"), "max_steps": 1}}
    del run["training"]["learning_rate"]
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run))
    done = case.program("qlora-train", "--config", file)
    taken = json.loads((tmp_path / "out" / "run_config.json").read_text())["training"]["learning_rate"]
    assert f"training.learning_rate: {taken:g}, that of PROMPT_TUNING where none is given" in done.stderr, done.stderr


@pytest.mark.parametrize("method", ["p-mlp", "prefix-projection"])
def test_training_cannot_go_on_from_what_a_network_made(method, method_case, tmp_path):
    case = method_case(method, dict(RUNS)[method])
    run = {**case.run, "model": {**case.run["model"], "adapter": str(case.adapter)}}
    del run["peft"]
    run["training"] = {**run["training"], "output_dir": str(tmp_path / "out")}
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run))
    done = case.program("qlora-train", "--config", file)
    assert done.returncode == 2 and "not the network" in done.stderr, done.stderr


def test_the_layers_that_ia3_scales_by_default_are_those_of_peft(root):
    """Read off the table of architectures: peft's two lists, of which the second is the last of the first here."""
    from peft.utils import constants

    table = (root / "src" / "models" / "architectures" / "registry.cpp").read_text(encoding="utf-8")
    targets = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    inner = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
    rows = re.findall(r'\{"(\w+)", \w+(?:, \{([^}]*)\})?(?:, \{([^}]*)\})?\}', table)
    assert len(rows) >= 30
    for model_type, _, ours in rows:
        names = re.findall(r'"([^"]+)"', ours)
        if model_type == "mixtral":  # peft names w2, a parameter of all experts in transformers 5
            assert not names
            continue
        assert names == targets.get(model_type, []), model_type
        assert names[-1:] == inner.get(model_type, []), model_type
