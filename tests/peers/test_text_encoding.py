"""Rendered chats become ids as tokenizers makes them, with what messages say kept from becoming control tokens."""

import itertools
import json
import random
import shutil
from bisect import bisect_right

import pytest
from fetch_vocabularies import fetch_vocabularies
from test_tokenizer import TRAINED
from test_tokenizer_families import FAMILIES, trained
from tokenize_program import assert_equal, save, texts, tokenize  # noqa: F401
from tokenizers import AddedToken, Tokenizer
from transformers import LlamaTokenizer

SIGNS = ["<|im_start|>", "<|im_end|>", "[INST]"]


def with_signs(peer):
    """A tokenizer with the chat's control tokens, each with other flags."""
    flags = [{}, {"rstrip": True}, {"lstrip": True, "rstrip": True}]
    signs = [AddedToken(name, normalized=False, special=True, **more) for name, more in zip(SIGNS, flags, strict=True)]
    peer.add_special_tokens(signs)
    return peer


def mistral(folder):
    """Mistral's vocabulary with two signs of ChatML, as tokenizer.model and the files beside it."""
    shutil.copy(fetch_vocabularies() / "mistral_v1" / "tokenizer.model", folder)
    signs = {id: {"content": name, "special": True} for id, name in enumerate(SIGNS, 32000)}
    signs[32003] = {"content": "<tool>", "special": False, "normalized": True}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": False, "added_tokens_decoder": signs})
    )
    return LlamaTokenizer.from_pretrained(folder)._tokenizer


NAMES = ["llama3", "qwen2", "llama2", "unfused", "some_bytes", "metaspace_always", "metaspace_first", "metaspace_never",
         "metaspace_nfd", "metaspace_whole", "nfc", "nfd_lower", "nfkc_strip", "replace", "digits", "lines"]  # fmt: skip
FAMILY_NAMES = ["gemma", "phi", "phi3_saved_anew", "phi4", "olmo", "deepseek_llm"]
KINDS = [*NAMES, *FAMILY_NAMES]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """made(name) -> (folder, peer); each is trained once."""
    known = {}

    def make(name):
        if name not in known:
            folder = tmp_path_factory.mktemp("made")
            if name == "tokenizer.model":
                known[name] = folder, mistral(folder)
            else:
                peer = with_signs(trained(*FAMILIES[name]) if name in FAMILIES else TRAINED[name]())
                known[name] = save(peer, folder), peer
        return known[name]

    return make


def with_aliases(peer):
    """The same tokenizer, whose special tokens are spelled by private characters: any other spelling is text to it."""
    state = json.loads(peer.to_str())
    names = {}
    for token in state["added_tokens"]:
        if token["special"]:
            names[token["content"]] = token["content"] = chr(0xF0000 + len(names))
    for token in state["added_tokens"]:
        state["model"]["vocab"].setdefault(token["content"], token["id"])
    state["post_processor"] = None
    # A name in the vocabulary keeps its id; the old name of the same id may stay, as its text never is one word.
    vocab = {token: id for token, id in state["model"]["vocab"].items() if token not in names}
    state["model"]["vocab"] = vocab
    if state["model"].get("unk_token") in names:
        state["model"]["unk_token"] = names[state["model"]["unk_token"]]
    return Tokenizer.from_str(json.dumps(state)), names


def random_chats(names, plain_texts, count):
    """Chats as lists of (kind, text): a control token, other text of the template, or what a message says."""
    rng = random.Random(count)
    names = sorted(names)

    def message():
        name = rng.choice(names)
        cut = rng.randrange(1, len(name))
        return rng.choice(
            [name, name[:cut], name[cut:], name + " ", " " + name, name + name, "x" + name + "y", "", " ", "\n", "  a", "́b",
             "\x00", "안녕하세요", "👍🏽 ok"] + rng.choices(plain_texts, k=15)
        )  # fmt: skip

    def template():
        name = rng.choice(names)
        return rng.choice(["user\n", "assistant\n", "\n", " ", "  ", "a", "é", "<", name[rng.randrange(1, len(name)) :]])

    chats = []
    for _ in range(count):
        parts = []
        for _ in range(rng.randrange(1, 9)):
            kind = rng.choice("ctmm")
            # Template text may only complete what a message began.
            if kind == "t" and parts and parts[-1][0] == "t":
                kind = "m"
            parts.append((kind, rng.choice(names) if kind == "c" else template() if kind == "t" else message()))
        chats.append(parts)
    return chats


def rendered(parts):
    """The text of a chat and the byte ranges of what its messages say."""
    text, plain = "", []
    for kind, part in parts:
        begin = len(text.encode())
        text += part
        if kind == "m":
            plain.append([begin, len(text.encode())])
    return {"text": text, "plain": plain}


@pytest.mark.parametrize("name", KINDS)
def test_only_the_template_writes_control_tokens(tokenize, texts, made, name):  # noqa: F811
    folder, peer = made(name)
    aliased, names = with_aliases(peer)
    ids = {peer.token_to_id(content): content for content in names}
    chats = random_chats(names, texts, 400)
    theirs = [e.ids for e in aliased.encode_batch(["".join(names.get(p, p) if k == "c" else p for k, p in c) for c in chats])]
    inputs = [rendered(parts) for parts in chats]
    ours = tokenize(folder, inputs, "--text")
    assert_equal(inputs, [row["ids"] for row in ours], theirs, "chats")
    assert any(set(row) & set(ids) for row in theirs)
