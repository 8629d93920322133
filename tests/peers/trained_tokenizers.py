"""Tokenizers that are trained on the spot, with the components that the tests ask for."""

import json

from tokenizer_texts import training_corpus
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_on_bytes(peer, special_tokens):
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=special_tokens,
    )  # fmt: skip
    peer.train_from_iterator(training_corpus(), trainer)


def byte_level(pre_tokenizer, normalizer=None, **model):
    """Trained with `pre_tokenizer` in front of ByteLevel without its own pattern."""
    peer = Tokenizer(models.BPE(**model))
    if normalizer is not None:
        peer.normalizer = normalizer
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    peer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizer, plain])
    peer.decoder = decoders.ByteLevel()
    train_on_bytes(peer, ["<|endoftext|>", "<|im_end|>"])
    return peer


def llama2(unknown=True, byte_fallback=True):
    """sentencepiece's model in tokenizer.json's words: no pre-tokenizer, so a text is one word."""
    peer = Tokenizer(models.BPE(unk_token="<unk>" if unknown else None, fuse_unk=True, byte_fallback=byte_fallback))
    peer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    specials = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=900, limit_alphabet=150, special_tokens=[], show_progress=False)
    scratch = Tokenizer(models.BPE())
    scratch.pre_tokenizer = pre_tokenizers.Metaspace()
    scratch.train_from_iterator(training_corpus(), trainer)
    learnt = json.loads(scratch.to_str())["model"]
    state = json.loads(peer.to_str())
    tokens = specials + byte_tokens + [t for t in sorted(learnt["vocab"], key=learnt["vocab"].get)]
    state["model"]["vocab"] = {token: id for id, token in enumerate(dict.fromkeys(tokens))}
    state["model"]["merges"] = learnt["merges"]
    peer = Tokenizer.from_str(json.dumps(state))
    peer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in specials])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    peer.decoder = decoders.Sequence(steps)
    peer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 1), ("</s>", 2)])
    return peer
