#!/usr/bin/env python3
"""Makes a tiny random Hugging Face model folder with a tokenizer, for tests against the Python peers.

Weights are scaled by their fan-in, norms and biases are not left at 1 and 0, so that every tensor shows in
the logits.
Needs torch, transformers and tokenizers (scripts/setup.sh --tests). The same options give the same bytes.
"""

import argparse
import dataclasses
import json
import math
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "data" / "wordnet_train.jsonl"
MODEL_TYPES = ("llama", "ministral", "mistral", "phi3", "qwen2", "qwen3", "smollm3")
ROPE_TYPES = ("default", "linear", "llama3")
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class TinyModel:
    """What to make; the fields are the command's flags."""

    model_type: str = "llama"
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int | None = None  # hidden / heads
    intermediate: int | None = None  # 3 * hidden - 8, so that it is no power of two
    vocab: int = 512
    max_positions: int = 512
    tie: bool = False
    bias: bool = False  # llama: attention and MLP; qwen3: attention; qwen2 has q, k, v biases in any case
    rope: str = "default"
    rope_theta: float = 10000.0
    sliding_window: int | None = None
    seed: int = 0
    dtype: str = "float32"
    max_shard_size: str = "5GB"
    old_config: bool = False  # write rope_theta, rope_scaling and torch_dtype as transformers 4 did
    tokenizer: str | None = None  # folder to copy the tokenizer from; else a small BPE is trained


def check(options):
    """Refuses what the model type cannot express: an ignored flag would make a test prove nothing."""
    faults = []
    if options.model_type not in MODEL_TYPES:
        faults.append(f"model type {options.model_type!r} is not one of {', '.join(MODEL_TYPES)}")
    if options.rope not in ROPE_TYPES:
        faults.append(f"rope {options.rope!r} is not one of {', '.join(ROPE_TYPES)}")
    if options.bias and options.model_type in ("ministral", "mistral", "phi3"):
        faults.append(f"{options.model_type} has no biases")
    if options.model_type == "phi3" and (options.head_dim is not None or options.rope != "default"):
        faults.append("phi3 has heads of hidden / heads and rope default")
    if options.sliding_window and options.model_type == "llama":
        faults.append("llama has no sliding window")
    if options.heads % options.kv_heads:
        faults.append(f"{options.heads} heads cannot share {options.kv_heads} key-value heads")
    if options.head_dim is None and options.hidden % options.heads:
        faults.append(f"hidden {options.hidden} is not a multiple of {options.heads} heads; give --head-dim")
    if faults:
        raise ValueError("; ".join(faults))


def rope_parameters(options):
    parameters = {"rope_type": options.rope, "rope_theta": options.rope_theta}
    if options.rope == "linear":
        parameters["factor"] = 2.0
    if options.rope == "llama3":
        parameters |= {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": options.max_positions // 4,
        }
    return parameters


def transformers_config(options, vocab):
    from transformers import AutoConfig

    values = {
        "vocab_size": vocab,
        "hidden_size": options.hidden,
        "intermediate_size": options.intermediate or 3 * options.hidden - 8,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "num_key_value_heads": options.kv_heads,
        "head_dim": options.head_dim or options.hidden // options.heads,
        "max_position_embeddings": options.max_positions,
        "tie_word_embeddings": options.tie,
        "rope_parameters": rope_parameters(options),
    }
    if options.model_type in ("llama", "qwen3", "smollm3"):
        values["attention_bias"] = options.bias
    if options.model_type in ("llama", "smollm3"):
        values["mlp_bias"] = options.bias
    if options.model_type in ("phi3", "smollm3"):
        values["pad_token_id"] = None  # the default is beyond a small vocabulary
    if options.model_type == "smollm3":
        # Each second layer knows no positions, and has the window.
        values |= {
            "no_rope_layer_interval": 2,
            "sliding_window": options.sliding_window,
            "use_sliding_window": options.sliding_window is not None,
        }
    if options.model_type == "ministral" and options.sliding_window:
        # Both kinds of layers in one model.
        kinds = ("sliding_attention", "full_attention")
        values["layer_types"] = [kinds[layer % 2] for layer in range(options.layers)]
    if options.model_type in ("ministral", "mistral", "phi3"):
        values["sliding_window"] = options.sliding_window
    if options.model_type in ("qwen2", "qwen3"):
        # The first layer stays full attention, so that both kinds are in one model.
        values |= {
            "sliding_window": options.sliding_window,
            "use_sliding_window": options.sliding_window is not None,
            "max_window_layers": min(1, options.layers - 1),
        }
    return AutoConfig.for_model(options.model_type, **values)


def fill(model, seed):
    """Random weights: logits of deviation about 2, norm weights in 0.5..1.5, biases of deviation 0.1."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.dim() == 1 and "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif parameter.dim() == 1:
                parameter.normal_(0.0, 0.1, generator=generator)
            else:
                gain = 2.0 if "embed_tokens" in name or "lm_head" in name else 1.0
                parameter.normal_(0.0, gain / math.sqrt(parameter.shape[-1]), generator=generator)


def train_tokenizer(vocab, output):
    """A byte-level BPE of `vocab` tokens, trained on the WordNet rows, with ChatML's tokens and template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        show_progress=False,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    rows = (json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines())
    tokenizer.train_from_iterator(
        (message["content"] for row in rows for message in row["messages"]), trainer
    )
    tokenizer.save(str(output / "tokenizer.json"))
    end_of_text, start, end = CONTROL_TOKENS
    (output / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": False,
                "bos_token": start,
                "eos_token": end,
                "pad_token": end_of_text,
                "unk_token": end_of_text,
                "model_max_length": 512,
            },
            indent=2,
        )
        + "\n",
        encoding="utf-8",
    )
    (output / "chat_template.jinja").write_text(CHATML, encoding="utf-8")


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)


def copy_tokenizer(source, output):
    copied = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not copied:
        raise ValueError(f"{source} holds no tokenizer file")
    for name in copied:
        shutil.copyfile(source / name, output / name)


def to_old_config(path):
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def make_tiny_model(output, options=TinyModel()):
    """Writes the folder `output` and returns it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check(options)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    if options.tokenizer:
        copy_tokenizer(Path(options.tokenizer), output)
    else:
        train_tokenizer(options.vocab, output)
    tokenizer = AutoTokenizer.from_pretrained(output)
    config = transformers_config(options, max(options.vocab, len(tokenizer)))
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fill(model, options.seed)
    model.to(getattr(torch, options.dtype)).save_pretrained(output, max_shard_size=options.max_shard_size)
    if options.old_config:
        to_old_config(output / "config.json")
    return output


def add_flags(parser):
    for field in dataclasses.fields(TinyModel):
        flag = "--" + field.name.replace("_", "-")
        if field.type in (bool, "bool"):
            parser.add_argument(flag, action="store_true")
            continue
        kind = {"int": int, "float": float}.get(getattr(field.type, "__name__", ""), None)
        kind = kind or (int if field.type == int | None else str)
        choices = {
            "model_type": MODEL_TYPES,
            "rope": ROPE_TYPES,
            "dtype": ("float32", "bfloat16", "float16"),
        }.get(field.name)
        parser.add_argument(
            flag, type=kind, default=field.default, choices=choices, help=f"default: {field.default}"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="folder to write")
    add_flags(parser)
    arguments = vars(parser.parse_args())
    output = arguments.pop("output")
    try:
        make_tiny_model(output, TinyModel(**arguments))
    except (ValueError, OSError) as error:
        print(f"make_tiny_model: {error}", file=sys.stderr)
        return 2
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
