"""Floating-point operations that a model's arithmetic needs: what a measured rate is a share of.

A multiply-add counts 2. Frozen weights need no gradient of their own, so a linear costs 2
operations a weight and token forward and 2 backward. The head counts on supervised rows only;
attention is causal, each sequence alone.
"""

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class ModelShape:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @property
    def query_width(self):
        return self.heads * self.head_dim

    @property
    def kv_width(self):
        return self.kv_heads * self.head_dim

    def layer_linears(self):
        """(name under the layer, inputs, outputs) of the seven linears of one layer."""
        d, ff = self.hidden, self.intermediate
        return [
            ("self_attn.q_proj", d, self.query_width),
            ("self_attn.k_proj", d, self.kv_width),
            ("self_attn.v_proj", d, self.kv_width),
            ("self_attn.o_proj", self.query_width, d),
            ("mlp.gate_proj", d, ff),
            ("mlp.up_proj", d, ff),
            ("mlp.down_proj", ff, d),
        ]

    def linear_parameters(self):
        return self.layers * sum(inputs * outputs for _, inputs, outputs in self.layer_linears())

    def head_parameters(self):
        return self.vocab * self.hidden

    def adapter_parameters(self, rank):
        return self.layers * rank * sum(n + m for _, n, m in self.layer_linears())


def read_shape(model_folder):
    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return ModelShape(
        hidden=hidden,
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        vocab=config["vocab_size"],
    )


def attention_flops(shape, lengths):
    """Forward: 2 products of half of each s x s square."""
    return 2 * shape.query_width * shape.layers * sum(n * n for n in lengths)


def training_flops(shape, rank, lengths, supervised):
    """One step, forward and backward, nothing recomputed; adapters on all seven linears."""
    tokens = sum(lengths)
    return (
        4 * shape.linear_parameters() * tokens
        + 4 * shape.head_parameters() * supervised
        + 3 * attention_flops(shape, lengths)
        + 6 * shape.adapter_parameters(rank) * tokens
    )


def evaluation_flops(shape, lengths, supervised):
    """A forward pass without adapters."""
    return (
        2 * shape.linear_parameters() * sum(lengths)
        + 2 * shape.head_parameters() * supervised
        + attention_flops(shape, lengths)
    )
