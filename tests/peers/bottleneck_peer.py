"""AdapterHub's bottlenecks by hooks on a transformers model: adapters 1.3.0 itself does not load beside transformers 5.

test_bottleneck.py holds what it computes against stored results of the package. Modules have the names that the package
gives them, so that parameters are the tensors of its files.
"""

import torch
from torch import nn

PLACES = {"seq_bn": ["output"], "double_seq_bn": ["attention", "output"], "par_bn": ["output"]}
READS = {"seq_bn": "sum", "double_seq_bn": "output", "par_bn": "stream"}
ACTIVATIONS = {"relu": nn.ReLU, "swish": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh,
               "gelu_new": lambda: nn.GELU(approximate="tanh")}
PARALLEL = ("phi", "cohere", "cohere2")  # attention and MLP on one input
NORMS_BEFORE_MLP = ("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2")


class Network(nn.Module):
    def __init__(self, size, width, config):
        super().__init__()
        self.adapter_down = nn.Sequential(nn.Linear(size, width), ACTIVATIONS[config["non_linearity"]]())
        self.adapter_up = nn.Linear(width, size)
        self.scaling = config["scaling"]

    def forward(self, x):
        return self.adapter_up(self.adapter_down(x)) * self.scaling


def kind_of(config):
    if config["is_parallel"]:
        return "par_bn"
    return "double_seq_bn" if config["mh_adapter"] else "seq_bn"


def changed_first(output, change):
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)


def put_network(layer, place, network, reads):
    """Hooks that add the network's result where the package does."""
    block = [part for part in (("self_attn", "attn") if place == "attention" else ("mlp",)) if hasattr(layer, part)]
    block = getattr(layer, block[0])
    if reads == "sum":
        layer.register_forward_hook(lambda _, __, out: changed_first(out, lambda y: y + network(y)))
    elif reads == "output":
        block.register_forward_hook(lambda _, __, out: changed_first(out, lambda h: h + network(h)))
    else:
        seen = {}
        # With a norm behind the MLP alone the stream itself enters it.
        sandwich = hasattr(layer, "pre_feedforward_layernorm")
        behind_alone = hasattr(layer, "post_feedforward_layernorm") and not sandwich
        before = block if behind_alone else next(
            getattr(layer, name) for name in NORMS_BEFORE_MLP if hasattr(layer, name))
        before.register_forward_pre_hook(lambda _, args: seen.update(stream=args[0]))
        block.register_forward_hook(lambda _, __, out: changed_first(out, lambda h: h + network(seen["stream"])))


def with_bottlenecks(model, adapter_config, tensors):
    """The frozen model with the networks that an adapter_config.json describes, holding `tensors`."""
    config, name = adapter_config["config"], adapter_config["name"]
    kind = kind_of(config)
    size = model.config.get_text_config().hidden_size
    width = max(1, int(size // config["reduction_factor"]))
    model.requires_grad_(False)
    layers = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    for index, layer in enumerate(layers):
        if index in config["leave_out"]:
            continue
        for place in PLACES[kind]:
            network = Network(size, width, config)
            holder = nn.Module()
            holder.adapters = nn.ModuleDict({name: network})
            layer.add_module(f"{place}_adapters", holder)
            put_network(layer, place, network, "output" if model.config.model_type in PARALLEL else READS[kind])
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert {k: tuple(p.shape) for k, p in trained.items()} == {k: tuple(v.shape) for k, v in tensors.items()}
    with torch.no_grad():
        for key, value in tensors.items():
            trained[key].copy_(value)
    return model


def trained(model):
    return {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}
