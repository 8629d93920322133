"""LoRA on a tied embedding and head that share their matrices, and files of peft that carry the base's own embedding and head.

peft ties by memory: the head's matrices are parameters of their own over the embedding's values. Each has a gradient and moments of
its own, so that an optimizer in fp32 moves the values twice a step, and on a base in 16 bits they come apart. Ours train one pair by
the sum of both gradients, which is what tying means; here peft's model is made to do so too.
"""

import json

import pytest
import torch
from model_case import FULL
from peft import LoraConfig, PeftModel, get_peft_model
from peft_loop import chatml_rows, mean_loss, padded, train_peer
from safetensors.torch import load_file
from test_methods import MethodCase, peft_model, saved_tensors
from test_model_parity import peer
from test_training_parity import BF16, TINY_FP32, TRAINING, compare_run, distance, hold, relative, seeded_adapter, short_rows
from transformers import AutoModelForCausalLM


FULL_ONLY = pytest.mark.skipif(not FULL, reason="QLORA_FULL=1")


class Transposed(torch.nn.Module):
    """A linear whose weight is a parameter of another module, transposed."""

    def __init__(self, parameter):
        super().__init__()
        self.source = [parameter]  # in a list, so that it is not registered here too

    @property
    def weight(self):
        return self.source[0].t()

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight)


def share(model):
    inner = model.base_model.model
    embedding, head = inner.get_input_embeddings(), inner.get_output_embeddings()
    head.lora_A["default"] = Transposed(embedding.lora_embedding_B["default"])
    head.lora_B["default"] = Transposed(embedding.lora_embedding_A["default"])


@pytest.fixture(scope="module")
def shared_case(root, tiny_model, bin_dir, tmp_path_factory):
    return MethodCase("tables-shared", "dense", root, tiny_model, bin_dir, tmp_path_factory.mktemp("shared"))


def test_twenty_steps_with_shared_matrices(shared_case, capsys):
    case = shared_case
    model = peft_model(case.new_base(), case.adapter, case.output / "checkpoints" / "step-1")
    share(model)
    start = saved_tensors(model)
    theirs = train_peer(model, case.steps(), case.run["training"])
    gaps = [relative(line["loss"], step.loss) for line, step in zip(case.lines, theirs)]
    norms = [relative(line["grad_norm"], step.grad_norm) for line, step in zip(case.lines, theirs)]
    ours, end = load_file(case.adapter / "adapter_model.safetensors"), saved_tensors(model)
    prefix = "base_model.model."
    assert torch.equal(ours[prefix + "lm_head.lora_A.weight"], ours[prefix + "model.embed_tokens.lora_embedding_B"].t())
    assert torch.equal(ours[prefix + "lm_head.lora_B.weight"], ours[prefix + "model.embed_tokens.lora_embedding_A"].t())
    moved = distance(ours, end, start)
    with capsys.disabled():
        print(f"\nshared: loss {theirs[0].loss:.4f} -> {theirs[-1].loss:.4f}; losses {max(gaps):.1e}, norms {max(norms):.1e},"
              f" adapters {moved:.1e}")
    assert max(gaps) <= TINY_FP32["loss"] and max(norms) <= TINY_FP32["norm"], (gaps, norms)
    assert moved <= TINY_FP32["adapters"]


def test_shared_matrices_load_in_peft_and_merge_into_one_tensor(shared_case):
    case = shared_case
    model = PeftModel.from_pretrained(case.new_base(), case.adapter)
    assert case.evaluated()["loss"] == pytest.approx(mean_loss(model, case.rows), rel=1e-5)
    merged = case.folder / "merged"
    done = case.program("qlora-merge", "--model", case.model_folder, "--adapter", case.adapter, "--output", merged, "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    assert json.loads((merged / "config.json").read_text()).get("tie_word_embeddings", True)
    batch = padded(case.rows[:4])
    with torch.no_grad():
        expected = model.eval()(**batch).logits[batch["attention_mask"].bool()]
        found = peer(merged).eval()(**batch).logits[batch["attention_mask"].bool()]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("tied", [False, True] if FULL else [True])
def test_tables_that_peft_saved_take_the_place_of_the_bases(tied, shared_case, tiny_model, root, tmp_path):
    """save_embedding_layers=True writes what the model holds, trained or not."""
    folder = tiny_model(model_type="llama", tie=tied)
    base = peer(folder)
    torch.manual_seed(3)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False))
    with torch.no_grad():
        base.get_input_embeddings().weight += 0.1 * torch.randn_like(base.get_input_embeddings().weight)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    keys = set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert {"base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"} <= keys
    data = short_rows(root, tmp_path, 20)
    rows = chatml_rows(folder, data)
    done = shared_case.program("qlora-eval", "--model", folder, "--adapter", tmp_path / "adapter", "--data", data, "--template", "chatml",
                               "--quantization", "none")
    assert done.returncode == 0, done.stderr
    assert "takes the place of the base's model.embed_tokens.weight" in done.stderr
    loaded = PeftModel.from_pretrained(peer(folder), tmp_path / "adapter")
    assert json.loads(done.stdout)["loss"] == pytest.approx(mean_loss(loaded, rows), rel=1e-5)
    done = shared_case.program("qlora-merge", "--model", folder, "--adapter", tmp_path / "adapter", "--output", tmp_path / "merged")
    assert done.returncode == 0, done.stderr
    batch = padded(rows[:4])
    with torch.no_grad():
        expected = loaded.eval()(**batch).logits[batch["attention_mask"].bool()]
        found = peer(tmp_path / "merged").eval()(**batch).logits[batch["attention_mask"].bool()]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@FULL_ONLY
def test_a_resized_vocabulary_is_refused(shared_case, tiny_model, root, tmp_path):
    folder = tiny_model(model_type="llama")
    base = peer(folder)
    base.resize_token_embeddings(base.config.vocab_size + 3, mean_resizing=False)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    done = shared_case.program("qlora-eval", "--model", folder, "--adapter", tmp_path / "adapter", "--data", short_rows(root, tmp_path, 20),
                               "--template", "chatml", "--quantization", "none")
    assert done.returncode == 2 and "2 faults" in done.stderr, done.stderr
    assert "the vocabulary was resized before training" in done.stderr


# Names of the embedding, a scale of it and of the logits, learned positions beside it, a head of another name on disk.
TYPES = {
    "granite": ({"config": {"embedding_multiplier": 3.0, "logits_scaling": 4.0}}, ["embed_tokens", "lm_head"]),
    "gpt2": ({"tie": True}, ["wte", "lm_head", "c_attn"]),
    "gpt_neox": ({}, ["embed_in", "lm_head"]),
    "cohere": ({"tie": True}, ["embed_tokens", "lm_head"]),
    "gemma2": ({"tie": True}, ["embed_tokens", "lm_head"]),
    "olmo2": ({}, r".*(embed_tokens|lm_head)"),
}


@pytest.mark.parametrize("model_type", TYPES if FULL else ["granite"])
def test_an_adapter_of_peft_on_the_tables_of_other_types(model_type, shared_case, tiny_model, root, tmp_path):
    options, targets = TYPES[model_type]
    folder = tiny_model(model_type=model_type, max_positions=512, **options)
    torch.manual_seed(3)
    model = get_peft_model(peer(folder), LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=targets, init_lora_weights=False))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_embedding" in name:
                parameter *= 0.1
    model.save_pretrained(tmp_path / "adapter")
    data = short_rows(root, tmp_path, 20)
    done = shared_case.program("qlora-eval", "--model", folder, "--adapter", tmp_path / "adapter", "--data", data, "--template", "chatml",
                               "--quantization", "none", "--quiet")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["loss"] == pytest.approx(mean_loss(model, chatml_rows(folder, data)), rel=1e-5)


@FULL_ONLY
def test_a_resumed_run_of_shared_matrices_ends_with_the_same_bytes(shared_case, tmp_path):
    file = tmp_path / "run.json"
    run = {**shared_case.run, "training": {**shared_case.run["training"], "save_steps": 7, "lr_scheduler_type": "constant"}}
    run["training"].pop("warmup_steps", None)
    adapters = []
    for folder, steps in (("out", (["--set", "training.max_steps=7"], ["--resume"])), ("whole", ([],))):
        run["training"]["output_dir"] = folder
        file.write_text(json.dumps(run))
        for arguments in steps:
            done = shared_case.program("qlora-train", "--config", file, "--quiet", *arguments)
            assert done.returncode == 0, done.stderr
        adapters.append((tmp_path / folder / "adapter" / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]


@FULL_ONLY
def test_twenty_steps_in_bf16(tiny_model, bin_dir, root, tmp_path, capsys):
    folder = tiny_model(model_type="gemma", tie=True)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    adapter = seeded_adapter(base, tmp_path / "start", r=4, lora_alpha=4, target_modules=["embed_tokens", "lm_head", "v_proj"])
    training = {**TRAINING, "learning_rate": 5e-3}
    hold(compare_run(bin_dir, tmp_path, folder, base, adapter, short_rows(root, tmp_path, 60), training,
                     {"load_in_4bit": False, "bnb_4bit_compute_dtype": "bfloat16"}, capsys, template="chatml"), BF16)


@FULL_ONLY
def test_a_tied_pair_that_peft_trained_whole_together(shared_case, tiny_model, root, tmp_path):
    folder = tiny_model(model_type="llama", tie=True)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["lm_head"], ensure_weight_tying=True,
                        init_lora_weights=False)
    model = get_peft_model(peer(folder), config)
    table = model.get_input_embeddings().weight
    assert table.requires_grad
    with torch.no_grad():
        table += 0.1 * torch.randn_like(table)
    model.save_pretrained(tmp_path / "adapter")
    data = short_rows(root, tmp_path, 20)
    arguments = ["--model", folder, "--adapter", tmp_path / "adapter"]
    done = shared_case.program("qlora-eval", *arguments, "--data", data, "--template", "chatml", "--quantization", "none", "--quiet")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["loss"] == pytest.approx(mean_loss(model, chatml_rows(folder, data)), rel=1e-5)
    done = shared_case.program("qlora-merge", *arguments, "--output", tmp_path / "merged")
    assert done.returncode == 0, done.stderr
    assert mean_loss(peer(tmp_path / "merged"), chatml_rows(folder, data)) == pytest.approx(mean_loss(model, chatml_rows(folder, data)), rel=1e-5)
