"""Logits and adapter gradients of tiny random models against transformers and peft, fp32: kinds of files and of adapters,
on a few model types. (test_model_types.py compares all types and their options.)

Bounds: logits 1e-5 of the largest (sums of a few hundred fp32 products in another order), gradients 1e-4 relative L2 per
tensor (two more passes of such sums).
"""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from make_tiny_model import auto_class
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

MODELS = {
    "llama": {},
    "llama-tied-bias": {"tie": True, "bias": True},
    "llama-linear-rope": {"rope": "linear"},
    "llama-llama3-rope": {"rope": "llama3", "rope_theta": 500000.0, "head_dim": 32},
    "llama-old-config": {"rope": "llama3", "old_config": True},
    "llama-mha-bf16-file": {"kv_heads": 4, "dtype": "bfloat16"},
    "llama-fp16-file-sharded": {"dtype": "float16", "max_shard_size": "100KB"},
    "mistral": {"model_type": "mistral"},
    "mistral-window": {"model_type": "mistral", "sliding_window": 7},
    "phi3": {"model_type": "phi3", "kv_heads": 4},
    "phi3-window": {"model_type": "phi3", "sliding_window": 7, "dtype": "bfloat16"},
    "qwen2": {"model_type": "qwen2"},
    "qwen2-window-tied": {"model_type": "qwen2", "sliding_window": 5, "tie": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 24},
    "qwen3-bias-one-kv-head": {"model_type": "qwen3", "bias": True, "kv_heads": 1},
}
LENGTHS = (23, 1, 40, 9)


def sequences(vocab, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, vocab, n).tolist() for n in LENGTHS]


def probe(bin_dir, tmp_path, name="probe", **request):
    request_file, output = tmp_path / f"{name}.json", tmp_path / f"{name}.safetensors"
    request_file.write_text(json.dumps(request))
    run = subprocess.run([bin_dir / "model_probe", request_file, output], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return load_file(output)


def close_to_largest(ours, theirs, share=1e-5):
    worst = (ours - theirs).abs().max().item()
    largest = theirs.abs().max().item()
    assert worst <= share * largest, f"differs by {worst:.3g}, largest {largest:.3g}"


def relative_l2(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm().clamp_min(1e-30)).item()


def peer(folder):
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    return auto_class(model_type).from_pretrained(folder, dtype=torch.float32)


def peer_loss_and_logits(model, ids, supervised=None):
    """Sum of the supervised tokens' cross-entropies, each sequence alone."""
    loss, logits = 0.0, []
    for i, sequence in enumerate(ids):
        out = model(torch.tensor([sequence])).logits[0]
        logits.append(out.detach())
        mask = torch.ones(len(sequence), dtype=torch.bool) if supervised is None else torch.tensor(supervised[i]).bool()
        targets = torch.tensor(sequence[1:], dtype=torch.long)[mask[1:]]
        loss = loss + torch.nn.functional.cross_entropy(out[:-1][mask[1:]], targets, reduction="sum")
    return loss, torch.cat(logits)


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(name, tiny_model, bin_dir, tmp_path):
    folder = tiny_model(**MODELS[name])
    model = peer(folder)
    ids = sequences(model.config.vocab_size)
    ours = probe(bin_dir, tmp_path, model=str(folder), sequences=ids)
    with torch.no_grad():
        loss, logits = peer_loss_and_logits(model, ids)
    close_to_largest(ours["logits"], logits)
    assert abs(ours["loss"].item() - loss.item()) <= 1e-5 * abs(loss.item())


@pytest.mark.parametrize("tie", [False, True])
def test_other_names_that_transformers_reads_give_its_logits(tie, tiny_model, bin_dir, tmp_path):
    """A decoder saved without its head lacks the prefix; with tied embeddings the head may stand for both."""
    folder = shutil.copytree(tiny_model(tie=tie), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    if tie:
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    renamed = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    ids = sequences(512)
    ours = probe(bin_dir, tmp_path, model=str(folder), sequences=ids)
    with torch.no_grad():
        _, logits = peer_loss_and_logits(peer(folder), ids)
    close_to_largest(ours["logits"], logits)


EXPERT_NAMES = {"mixtral": ("w1", "w3", "w2")}


def expert_matrices(model):
    """The experts' matrices under our linears' names: in transformers they are parts of parameters."""
    gate, up, down = EXPERT_NAMES.get(model.config.model_type, ("gate_proj", "up_proj", "down_proj"))
    found = {}
    for name, parameter in model.named_parameters():
        path, _, last = name.rpartition(".")
        for expert in range(len(parameter) if parameter.ndim == 3 else 0):
            matrix = parameter.data[expert]
            if last == "gate_up_proj":
                found[f"{path}.{expert}.{gate}.weight"], found[f"{path}.{expert}.{up}.weight"] = matrix.chunk(2)
            else:
                found[f"{path}.{expert}.{down}.weight"] = matrix
    return found


def dequantized_peer(folder, states):
    """The transformers model on our quantized weights, dequantized by bitsandbytes."""
    model = peer(folder)
    in_columns = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, Conv1D)}
    set_quantized({**dict(model.named_parameters()), **expert_matrices(model)}, states, in_columns)
    return model


def set_quantized(matrices, states, in_columns=()):
    """Gives the matrices that we quantized our values, dequantized by bitsandbytes."""
    import bitsandbytes.functional as bnb

    for key, codes in states.items():
        if not key.startswith("codes."):
            continue
        name = key.removeprefix("codes.")
        target = matrices[name]
        absmax = states["absmax." + name]
        # As one row: bitsandbytes 0.50.2's CPU kernel reads wrong scales where a block crosses a row's end.
        state = bnb.QuantState(absmax=absmax.float(), shape=(1, target.numel()), dtype=torch.float32, blocksize=64,
                               code=bnb.get_4bit_type("nf4", device="cpu"), quant_type="nf4")
        if "nested_absmax." + name in states:
            nested = bnb.QuantState(absmax=states["nested_absmax." + name], blocksize=256, dtype=torch.float32,
                                    code=bnb.create_dynamic_map())
            state.absmax = bnb.dequantize_blockwise(absmax, nested) + states["nested_offset." + name]
        values = bnb.dequantize_4bit(codes.reshape(-1, 1), state).reshape(states["dequantized." + name].shape)
        assert torch.equal(values, states["dequantized." + name]), name
        target.data.copy_(values.t() if name in in_columns else values)


ADAPTERS = {
    "default": {},
    "all-linear": {"target_modules": "all-linear", "r": 4, "lora_alpha": 16},
    "rslora-patterns": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True, "rank_pattern": {"q_proj": 3},
                        "alpha_pattern": {"layers.1.mlp.down_proj": 5}},
    "norm-and-head": {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "norm"]},
    "embedding": {"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens"]},
    "bias-all": {"target_modules": ["q_proj"], "bias": "all"},
    "bias-lora-only": {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"},
}
GRADIENT_CASES = [(model, adapter) for model in ("llama", "qwen2", "qwen3", "mistral-window", "llama-tied-bias")
                  for adapter in ADAPTERS if not (adapter == "embedding" and model == "llama-tied-bias")]
ADAPTERS["fused"] = {"target_modules": ["qkv_proj", "gate_up_proj"], "modules_to_save": ["embed_tokens"]}
GRADIENT_CASES += [("phi3", "fused")]


@pytest.mark.parametrize("model_name,adapter", GRADIENT_CASES)
def test_gradients_equal_peft_on_the_same_quantized_weights(model_name, adapter, tiny_model, bin_dir, tmp_path):
    folder = tiny_model(**MODELS[model_name])
    # A random B makes every gradient of A show; PEFT reads our adapter, so both start from the same bytes.
    config = {"init_lora_weights": False, **ADAPTERS[adapter]}
    generator = np.random.default_rng(1)
    vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    ids = sequences(vocab, seed=3)
    supervised = [[0] + generator.integers(0, 2, len(s) - 1).tolist() for s in ids]
    saved = tmp_path / "adapter"
    ours = probe(bin_dir, tmp_path, model=str(folder), sequences=ids, supervised=supervised, gradients=True, states=True,
                 peft=config, quantization={"bnb_4bit_use_double_quant": adapter != "all-linear"},
                 save_adapter=str(saved))
    base = dequantized_peer(folder, ours)
    model = PeftModel.from_pretrained(base, saved, is_trainable=True)
    model.train()
    loss, logits = peer_loss_and_logits(model, ids, supervised)
    loss.backward()
    close_to_largest(ours["logits"], logits)
    assert abs(ours["loss"].item() - loss.item()) <= 1e-5 * abs(loss.item())
    theirs = {}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = key.replace(".default", "").replace("modules_to_save.", "")
            theirs[key] = parameter.grad
    mine = {key.removeprefix("grad."): value for key, value in ours.items() if key.startswith("grad.")}
    assert set(mine) == set(theirs)
    for key, gradient in theirs.items():
        assert relative_l2(mine[key], gradient) <= 1e-4, key


def test_bf16_logits_stay_near_transformers_bf16(tiny_model, bin_dir, tmp_path):
    """bf16 rounding noise of two implementations: a bound of twice what bf16 costs transformers itself."""
    folder = tiny_model(**MODELS["llama-mha-bf16-file"])
    ids = sequences(512)
    ours = probe(bin_dir, tmp_path, model=str(folder), sequences=ids, compute_dtype="bfloat16")
    with torch.no_grad():
        _, exact = peer_loss_and_logits(peer(folder), ids)
        _, rounded = peer_loss_and_logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16), ids)
    cost = relative_l2(rounded.float(), exact)
    assert relative_l2(ours["logits"].float(), exact) <= 2 * cost


def test_peft_adapters_load_and_give_its_logits(tiny_model, bin_dir, tmp_path):
    folder = tiny_model(**MODELS["qwen2"])
    model = get_peft_model(peer(folder), LoraConfig(r=5, lora_alpha=7, target_modules=["k_proj", "gate_proj"],
                                                    init_lora_weights=False, task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "theirs")
    ids = sequences(512)
    ours = probe(bin_dir, tmp_path, model=str(folder), sequences=ids, adapter=str(tmp_path / "theirs"))
    with torch.no_grad():
        _, logits = peer_loss_and_logits(model, ids)
    close_to_largest(ours["logits"], logits)
