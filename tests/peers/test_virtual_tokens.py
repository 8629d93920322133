"""Virtual tokens before each sequence against peft: prompt tuning, P-tuning and prefix tuning, tensors by name from
get_peft_model, on models whose embeddings, positions, windows and head norms treat them each in its own way.

peft reads one padded batch, we rows end to end. Bounds: logits 1e-5 of the largest (sums of a few hundred fp32 products in
another order), gradients 1e-4 relative L2 per tensor (two more passes of such sums).
"""

import functools

import pytest
import torch
from model_case import probe_all
from model_options import CASES
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import save_file
from test_model_parity import close_to_largest, peer, relative_l2, sequences

TOKENS, HIDDEN = 6, 20
KINDS = {
    "prompt": PromptTuningConfig,
    "mlp": functools.partial(PromptEncoderConfig, encoder_hidden_size=HIDDEN),
    "lstm": functools.partial(PromptEncoderConfig, encoder_hidden_size=HIDDEN, encoder_reparameterization_type="LSTM"),
    "prefix": PrefixTuningConfig,
    "projection": functools.partial(PrefixTuningConfig, prefix_projection=True, encoder_hidden_size=HIDDEN),
}
# Each stands for what a type does: nothing, learned positions, a scale of embeddings within their module and outside of it
# with windows and softcaps, windows shorter than the prefix, norms of keys, keys of several heads that are stored together.
MODELS = ("llama-plain", "gpt2-plain", "gemma2-plain", "granite-plain", "mistral-plain", "qwen3-plain", "gpt_neox-plain",
          "phi3-longrope")
LEVELS = ("none", "mlp", "layers")


class Peer:
    """A peft model on a tiny one, its encoder in a file, and what both make of some rows."""

    def __init__(self, model_name, kind, folder, scratch):
        self.folder, self.ids = folder, sequences(512, seed=4)
        torch.manual_seed(2)
        self.model = get_peft_model(peer(folder), KINDS[kind](task_type="CAUSAL_LM", num_virtual_tokens=TOKENS))
        self.model.eval()
        self.encoder = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        assert all(name.startswith("prompt_encoder.default.") for name in self.encoder)
        file = scratch / f"{model_name}-{kind}.safetensors"
        save_file({name: value.detach() for name, value in self.encoder.items()}, file)
        self.request = {"model": str(folder), "sequences": self.ids,
                        "encoder": {"kind": kind, "tokens": TOKENS, "hidden": HIDDEN, "tensors": str(file)}}

    def logits(self):
        """Of each row [n, vocabulary], its own tokens'; from one batch padded on the right."""
        # The longest row of a batch decides for all of it how longrope turns them: there each is a batch of its own.
        batches = [[row] for row in self.ids] if self.model.config.model_type == "phi3" else [self.ids]
        return [logits for rows in batches for logits in self.logits_of_batch(rows)]

    def logits_of_batch(self, rows):
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        out = self.model(input_ids=ids, attention_mask=mask).logits
        own = out[:, out.shape[1] - longest:]
        return [own[i, : len(row)] for i, row in enumerate(rows)]


@pytest.fixture(scope="module")
def peers(tiny_model, bin_dir, tmp_path_factory):
    """(model, kind) -> its Peer and what model_probe says of it, all from one process."""
    scratch = tmp_path_factory.mktemp("virtual_tokens")
    made = {(name, kind): Peer(name, kind, tiny_model(**CASES[name]), scratch) for name in MODELS for kind in KINDS}

    def requests():
        for (name, kind), one in made.items():
            yield {"name": f"{name} {kind}", **one.request, "cached": True, "gradients": name == "llama-plain"}
        for kind in KINDS:
            for level in LEVELS:
                yield {"name": f"{level} {kind}", **made["llama-plain", kind].request, "gradients": True,
                       "recomputation": level}
            yield {"name": f"quantized {kind}", **made["llama-plain", kind].request, "gradients": True, "quantization": {}}

    answers = probe_all(bin_dir, scratch / "probe", requests())
    return lambda name, kind: (made[name, kind], answers(f"{name} {kind}"), answers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_peft(name, kind, peers):
    one, ours, _ = peers(name, kind)
    with torch.no_grad():
        theirs = torch.cat(one.logits())
        # Without the encoder the logits are others.
        plain = torch.cat([one.model.get_base_model()(torch.tensor([row])).logits[0] for row in one.ids])
    assert (theirs - plain).abs().max() > 1e-2 * theirs.abs().max()
    close_to_largest(ours["logits"], theirs)
    # As generation sees them: a first pass that virtual tokens stand before, then one a token.
    close_to_largest(ours["cached_logits"], theirs)
    with torch.no_grad():
        close_to_largest(ours["prompt_embeddings"], one.model.get_prompt_embedding_to_save("default"), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_peft_at_every_level_of_recomputation(kind, peers):
    one, ours, answers = peers("llama-plain", kind)
    loss = sum(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(row[1:]), reduction="sum")
               for logits, row in zip(one.logits(), one.ids) if len(row) > 1)
    one.model.zero_grad()
    loss.backward()
    assert abs(ours["loss"].item() - loss.item()) <= 1e-5 * loss.item()
    for name, parameter in one.encoder.items():
        assert relative_l2(ours["grad." + name], parameter.grad) <= 1e-4, name
        for level in LEVELS:
            assert torch.equal(answers(f"{level} {kind}")["grad." + name], ours["grad." + name]), (level, name)
        assert answers(f"quantized {kind}")["grad." + name].any()
