#!/usr/bin/env python3
"""Makes a tiny random Hugging Face model folder with a tokenizer, for tests against the Python peers.

Weights are scaled by their fan-in, norms and biases are not left at 1 and 0, so that every tensor shows in
the logits. What has no flag is set by --config, with any key of the type's config.json:
  make_tiny_model.py models/tiny-gemma2 --model-type gemma2 --config sliding_window=16
  make_tiny_model.py models/tiny-gemma3 --model-type gemma3 --config text_config.sliding_window=16
Needs torch, transformers and tokenizers (scripts/setup.sh --tests). The same options give the same bytes.
"""

import argparse
import dataclasses
import functools
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

from tiny_model_config import (
    MODEL_TYPES,
    ROPE_TYPES,
    TinyModel,
    auto_class,
    check,
    transformers_config,
)

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "data" / "wordnet_train.jsonl"
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def fill(model, seed):
    """Random weights: logits of deviation about 2, factors of norms in 0.5..1.5, biases of deviation 0.1."""
    import torch
    from transformers.pytorch_utils import Conv1D

    generator = torch.Generator().manual_seed(seed)
    outer = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    in_columns = {id(module.weight) for module in model.modules() if isinstance(module, Conv1D)}
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.1, generator=generator)
            elif (parameter == 1).all():
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif parameter.dim() == 1:  # 1 + this is what multiplies
                parameter.uniform_(-0.5, 0.5, generator=generator)
            else:
                gain = 2.0 if id(parameter) in outer else 1.0
                fan_in = parameter.shape[0 if id(parameter) in in_columns else -1]
                parameter.normal_(0.0, gain / math.sqrt(fan_in), generator=generator)


@functools.lru_cache
def trained_tokenizer(vocab):
    """A byte-level BPE of `vocab` tokens, trained on the WordNet rows, with ChatML's tokens: the file's text."""
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
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(f"{folder}/tokenizer.json")
        return Path(folder, "tokenizer.json").read_text(encoding="utf-8")


def train_tokenizer(vocab, output):
    """The tokenizer's files, with ChatML's template."""
    (output / "tokenizer.json").write_text(trained_tokenizer(vocab), encoding="utf-8")
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


def to_old_config(config):
    """As transformers 4 spelled it."""
    if "text_config" in config:
        to_old_config(config["text_config"])
    rope = config.pop("rope_parameters", None)
    if rope and "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    if rope:
        names = {"rope_theta": "rope_theta", "partial_rotary_factor": "partial_rotary_factor"}
        if config["model_type"] == "gpt_neox":
            names = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
        config |= {names[key]: rope.pop(key) for key in names if key in rope}
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")


def within(config, key):
    """The object that holds the dotted `key`, and the key's last part."""
    *outer, last = key.split(".")
    for part in outer:
        config = config.setdefault(part, {})
    return config, last


def without_defaults(config):
    """What differs from the values of transformers' class for the type."""
    from transformers import AutoConfig

    defaults = AutoConfig.for_model(config["model_type"]).to_dict()
    kept = {}
    for key, value in config.items():
        if isinstance(value, dict) and "model_type" in value:
            kept[key] = without_defaults(value)
        elif key == "model_type" or key not in defaults or value != defaults[key]:
            kept[key] = value
    return kept


def rewrite_config(file, options):
    """Puts the old spelling, the keys of `config` and what is left out into config.json."""
    if not (options.old_config or options.config or options.drop or options.bare):
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    if options.bare:
        config = without_defaults(config)
    if options.old_config:
        to_old_config(config)
    for key in options.drop:
        holder, last = within(config, key)
        holder.pop(last, None)
    for key, value in options.config.items():
        holder, last = within(config, key)
        holder[last] = value
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def make_tiny_model(output, options=TinyModel()):
    """Writes the folder `output` and returns it."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    check(options)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    if options.tokenizer:
        copy_tokenizer(Path(options.tokenizer), output)
    else:
        train_tokenizer(options.vocab, output)
    tokenizer = AutoTokenizer.from_pretrained(output)
    config = transformers_config(options, max(options.vocab, len(tokenizer)))
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        part.bos_token_id, part.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        part.pad_token_id = tokenizer.pad_token_id
    config.save_pretrained(output)
    rewrite_config(output / "config.json", options)  # the model is what transformers makes of that file
    config = AutoConfig.from_pretrained(output)
    model = auto_class(options.model_type).from_config(config, dtype=torch.float32)
    fill(model, options.seed)
    model.to(getattr(torch, options.dtype)).save_pretrained(output, max_shard_size=options.max_shard_size)
    rewrite_config(output / "config.json", options)
    return output


def setting(text):
    """KEY=VALUE; the value is JSON, or a text without quotes."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def add_flags(parser):
    for field in dataclasses.fields(TinyModel):
        flag = "--" + field.name.replace("_", "-")
        if field.name == "config":
            words = "any key of config.json, dots between nested ones; may be repeated"
            parser.add_argument(flag, action="append", type=setting, default=[], metavar="KEY=VALUE", help=words)
            continue
        if field.name == "drop":
            words = "a key that config.json does not have; may be repeated"
            parser.add_argument(flag, action="append", default=[], metavar="KEY", help=words)
            continue
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
    arguments |= {"config": dict(arguments["config"]), "drop": tuple(arguments["drop"])}
    try:
        make_tiny_model(output, TinyModel(**arguments))
    except (ValueError, OSError) as error:
        print(f"make_tiny_model: {error}", file=sys.stderr)
        return 2
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
