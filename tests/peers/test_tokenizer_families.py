"""The tokenizer.json of each family of models, in the components and options that the family's files have."""

import itertools
import json

import pytest
from tokenize_program import assert_equal, save, texts, tokenize  # noqa: F401
from tokenizers import Tokenizer
from trained_tokenizers import GPT4O, LLAMA3, llama2, train_on_bytes

CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
EXAONE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
DEEPSEEK_LLM = [
    r"[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽ]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+",
]  # fmt: skip
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PLAIN_BYTES = {**BYTES, "use_regex": False}
DIGITS = {"type": "Digits", "individual_digits": True}
NFC = {"type": "NFC"}
TO_MARKS = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
FROM_MARKS = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
FALLBACK = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}


def split(pattern, behavior="Isolated", invert=False):
    kind = "String" if pattern == " " else "Regex"
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def steps(*components):
    return {"type": "Sequence", "pretokenizers": list(components)}


def decoder(*components):
    return {"type": "Sequence", "decoders": [FROM_MARKS, {"type": "ByteFallback"}, {"type": "Fuse"}, *components]}


def runs(character, longest, *flags):
    return [(character * count, *flags) for count in range(longest, 1, -1)]


# normalizer, pre_tokenizer, options of the BPE model, token before every text, added tokens with their flags;
# with byte fallback the vocabulary is sentencepiece's, else that of bytes, and the decoder goes with it.
FAMILIES = {
    "gemma": (
        TO_MARKS, split(" ", "MergedWithPrevious"), FALLBACK, "<bos>",
        [(name, "special") for name in ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")]
        + [("\n",), *runs("\n", 31), *runs("▁", 31), ("<table>",), ("</s>",)],
    ),
    "phi": (None, BYTES, {}, None, runs(" ", 31, "normalized") + runs("\t", 9, "normalized")),
    "phi3": (
        {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, TO_MARKS]}, None, FALLBACK, "<s>",
        [("<unk>", "special"), ("<s>", "special"), ("</s>", "rstrip"), ("<|endoftext|>", "special"),
         ("<|im_start|>", "rstrip", "special"), ("<|im_end|>", "rstrip", "special")],
    ),
    # what transformers 5 writes for a tokenizer.model with "legacy": false
    "phi3_saved_anew": (
        {"type": "Sequence", "normalizers": [TO_MARKS]},
        steps({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}), FALLBACK, "<s>",
        [("<s>", "special"), ("</s>", "rstrip"), ("<|im_end|>", "rstrip", "special"), ("word", "normalized")],
    ),
    "phi4": (None, steps(split(CL100K, "Removed", True), PLAIN_BYTES), {}, None, [("<|im_end|>", "lstrip", "rstrip")]),
    "phi4_mini": (None, steps(split(GPT4O, "Removed", True), PLAIN_BYTES), {}, None, [("<|im_end|>", "rstrip")]),
    "cohere": (
        NFC, steps(DIGITS, BYTES), {"continuing_subword_prefix": "", "end_of_word_suffix": ""}, "<BOS_TOKEN>",
        [("<PAD>", "special"), ("<BOS_TOKEN>", "special"), ("<|im_end|>", "special")],
    ),
    "glm4": (
        None, steps(split(LLAMA3), PLAIN_BYTES), {"ignore_merges": True}, None,
        [("<|endoftext|>", "special"), ("[gMASK]", "special"), ("<sop>", "special"), ("<|im_start|>", "special")],
    ),
    "exaone": (NFC, steps(DIGITS, BYTES), {}, "[BOS]", [("[BOS]", "special"), ("[PAD]", "special"), ("<tool>",)]),
    "exaone4": (NFC, steps(split(EXAONE), PLAIN_BYTES), {}, None, [("[BOS]", "special"), ("<tool_call>",)]),
    "olmo": (
        NFC, BYTES, {}, None,
        [("|||IP_ADDRESS|||",), ("<|padding|>", "special"), *runs(" ", 24, "normalized"), ("<|endoftext|>", "special")],
    ),
    "olmo2": (None, steps(split(LLAMA3), PLAIN_BYTES), {}, None, [("<|endoftext|>", "special"), ("<|im_end|>",)]),
    "gpt_neox": (NFC, BYTES, {}, None, [("<|endoftext|>", "special"), *runs(" ", 24, "normalized")]),
    "starcoder": (None, steps(DIGITS, BYTES), {}, None, [("<|endoftext|>", "special"), ("<fim_prefix>", "special")]),
    "deepseek_llm": (
        {"type": "Sequence", "normalizers": []}, steps(*map(split, DEEPSEEK_LLM), DIGITS, PLAIN_BYTES), {}, None,
        [("<|endoftext|>", "normalized", "special")],
    ),
}  # fmt: skip


def trained(normalizer, pre_tokenizer, options, first, added):
    by_pieces = options.get("byte_fallback", False)
    bare = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "post_processor": None,
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": BYTES}  # fmt: skip
    if by_pieces:
        state = json.loads(llama2().to_str()) | {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
        state["decoder"] = decoder(STRIP) if first == "<s>" else decoder()
    else:
        peer = Tokenizer.from_str(json.dumps({**bare, "model": {"type": "BPE", "vocab": {}, "merges": []}}))
        train_on_bytes(peer, [content for content, *_ in added[:2]])
        state = json.loads(peer.to_str())
    vocab = state["model"]["vocab"]
    state["model"].update(options)
    state["added_tokens"] = []
    after = itertools.count(len(vocab))
    for content, *flags in added:
        # As in the files, some stand in the vocabulary and the others are numbered after it.
        id = vocab[content] if content in vocab else next(after)
        names = ("single_word", "lstrip", "rstrip", "normalized", "special")
        state["added_tokens"].append({"id": id, "content": content, **{name: name in flags for name in names}})
    state["post_processor"] = None if by_pieces else BYTES
    if first is not None:
        id = next(token["id"] for token in state["added_tokens"] if token["content"] == first)
        bos, text = {"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
        known = {first: {"id": first, "ids": [id], "tokens": [first]}}
        state["post_processor"] = {"type": "TemplateProcessing", "single": [bos, text], "pair": [], "special_tokens": known}
    return Tokenizer.from_str(json.dumps(state))


@pytest.mark.parametrize("name", FAMILIES)
def test_family(tokenize, texts, tmp_path, name):  # noqa: F811
    peer = trained(*FAMILIES[name])
    folder = save(peer, tmp_path)
    theirs = [encoding.ids for encoding in peer.encode_batch(texts)]
    assert_equal(texts, tokenize(folder, texts, "--special", "--add-special"), theirs, "encode")
    shown = [peer.decode(row, skip_special_tokens=False) for row in theirs]
    assert_equal(theirs, tokenize(folder, theirs, "--decode"), shown, "decode")
