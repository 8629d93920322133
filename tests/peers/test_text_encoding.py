"""Rendered chats become the ids of tokenizers and transformers; what messages say never becomes a control token."""

import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fetch_vocabularies import fetch_vocabularies
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from test_tokenizer import TRAINED
from test_tokenizer_families import FAMILIES, trained
from tokenize_program import assert_equal, save, texts, tokenize  # noqa: F401
from tokenizer_texts import training_corpus
from tokenizers import AddedToken, Tokenizer
from trained_tokenizers import llama2
from transformers import AutoTokenizer

SIGNS = {"<|im_start|>": {}, "<|im_end|>": {"rstrip": True}, "[INST]": {"lstrip": True, "rstrip": True}}


def with_signs(peer):
    """A tokenizer with a chat's control tokens, each with other flags."""
    signs = [AddedToken(name, normalized=False, special=True, **flags) for name, flags in SIGNS.items()]
    peer.add_special_tokens(signs)
    return peer


def loaded(folder, first_id, model_type, **config):
    """What AutoTokenizer reads in a folder whose tokenizer_config.json lists the control tokens and one other."""
    decoder = {id: {"content": name, "special": True, **flags} for id, (name, flags) in enumerate(SIGNS.items(), first_id)}
    decoder[first_id + len(SIGNS)] = {"content": "<call>", "special": False, "normalized": False, "single_word": True}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "added_tokens_decoder": decoder}))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return AutoTokenizer.from_pretrained(folder)._tokenizer


def mistral(folder, **config):
    shutil.copy(fetch_vocabularies() / "mistral_v1" / "tokenizer.model", folder)
    return loaded(folder, 32000, "mistral", **config)


def sentencepiece(folder, kind, **config):
    """A trained model, which drops blanks at the ends and of two in a row one."""
    (folder / "corpus.txt").write_text("\n".join(training_corpus()).replace("\x00", ""), encoding="utf-8")
    SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=2500, model_type=kind,
        character_coverage=0.98, byte_fallback=kind == "bpe", hard_vocab_limit=False, minloglevel=2,
        normalization_rule_name="identity",
    )  # fmt: skip
    size = SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).vocab_size()
    return loaded(folder, size, "mistral", tokenizer_class="TokenizersBackend", **config)


def llama_class(folder, **config):
    """transformers' LlamaTokenizer reads this file without its normalizer."""
    peer = llama2()
    state = json.loads(peer.to_str())
    state["model"].update(unk_token=None)
    (folder / "tokenizer.json").write_text(json.dumps(state))
    control = {peer.token_to_id(name): {"content": name, "special": True} for name in ("<unk>", "<s>", "</s>")}
    first = peer.get_vocab_size()
    loaded(folder, first, "llama", tokenizer_class="LlamaTokenizer", **config)
    saved = json.loads((folder / "tokenizer_config.json").read_text())
    saved["added_tokens_decoder"].update(control)
    (folder / "tokenizer_config.json").write_text(json.dumps(saved))
    return AutoTokenizer.from_pretrained(folder)._tokenizer


JSON_KINDS = ["llama3", "qwen2", "gpt4o", "unfused", "some_bytes", "metaspace_always", "metaspace_first", "metaspace_never",
              "metaspace_nfd", "nfc", "nfd_lower", "nfkc_strip", "replace", "lines"]  # fmt: skip
FAMILY_KINDS = ["gemma", "phi", "phi3_saved_anew", "phi4", "deepseek_llm"]
FOLDER_KINDS = {
    "mistral": lambda folder: mistral(folder, legacy=False),
    "mistral_legacy": mistral,
    "unigram": lambda folder: sentencepiece(folder, "unigram", legacy=False),
    "bpe_legacy": lambda folder: sentencepiece(folder, "bpe"),
    "llama_class": lambda folder: llama_class(folder, legacy=False),
    "llama_class_legacy": lambda folder: llama_class(folder, legacy=True),
}
KINDS = [*JSON_KINDS, *FAMILY_KINDS, *FOLDER_KINDS]


def fitting(texts, kind):
    """Without those that sentencepiece and tokenizers read otherwise: its sign for a blank where blanks are dropped, and
    repeated words, of which two cuts may score the same."""
    if kind not in ("unigram", "bpe_legacy"):
        return texts
    return [text for text in texts if "▁" not in text and (kind != "unigram" or not re.search(r"(.+?)\1\1", text, re.DOTALL))]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """made(kind) -> (folder, peer); each is trained once."""
    known = {}

    def make(kind):
        if kind not in known:
            folder = tmp_path_factory.mktemp("made")
            if kind in FOLDER_KINDS:
                peer = FOLDER_KINDS[kind](folder)
            else:
                peer = with_signs(trained(*FAMILIES[kind]) if kind in FAMILIES else TRAINED[kind]())
                save(peer, folder)
            known[kind] = folder, peer
        return known[kind]

    return make


def with_aliases(peer):
    """The same tokenizer, whose special tokens are spelled by private characters: any other spelling is text to it."""
    state = json.loads(peer.to_str())
    state["post_processor"] = None
    model = state["model"]
    names = {}
    for token in state["added_tokens"]:
        if token["special"]:
            names[token["content"]] = token["content"] = chr(0xF0000 + len(names))
    if isinstance(model["vocab"], list):
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    else:
        model["vocab"] = {names.get(token, token): id for token, id in model["vocab"].items()}
        for token in state["added_tokens"]:
            model["vocab"].setdefault(token["content"], token["id"])
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    return Tokenizer.from_str(json.dumps(state)), names


def random_chats(names, plain_texts, count):
    """Chats as lists of (kind, text): a control token, other text of the template, or what a message says."""
    rng = random.Random(count)
    names = sorted(names)

    def message():
        name = rng.choice(names)
        cut = rng.randrange(1, len(name))
        own = [name, name[:cut], name[cut:], name + " ", " " + name, name + name, "x" + name + "y", "", " ", "\n", "  a",
               "\u0301b", "\x00", "안녕하세요", "👍🏽 ok", "<call>", "a<call>"]  # fmt: skip
        return rng.choice(own + rng.choices(plain_texts, k=15))

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


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_template_writes_control_tokens(tokenize, texts, made, kind):  # noqa: F811
    folder, peer = made(kind)
    aliased, names = with_aliases(peer)
    chats = random_chats(names, fitting(texts, kind), 400)
    aliases = ["".join(names.get(text, text) if part == "c" else text for part, text in chat) for chat in chats]
    theirs = [encoding.ids for encoding in aliased.encode_batch(aliases)]
    inputs = [rendered(parts) for parts in chats]
    ours = [row["ids"] for row in tokenize(folder, inputs, "--text")]
    assert_equal(inputs, ours, theirs, "chats")
    control = {peer.token_to_id(name) for name in names}
    assert sum(bool(control & set(row)) for row in theirs) > 100


def offsets_of(text):
    """Byte offset -> index of the character that it lies in; the end belongs to none."""
    at = []
    for index, character in enumerate(text):
        at += [index] * len(character.encode())
    return [*at, len(text)]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_know_their_place(tokenize, texts, made, kind):  # noqa: F811
    folder, peer = made(kind)
    peer = Tokenizer.from_str(peer.to_str())
    peer.post_processor = None
    texts = fitting(texts, kind)  # noqa: F811
    encodings = peer.encode_batch(texts)
    ours = tokenize(folder, [{"text": text} for text in texts], "--text")
    assert_equal(texts, [row["ids"] for row in ours], [e.ids for e in encodings], "ids")
    added = set(peer.get_added_tokens_decoder())
    normalizes = kind in ("unigram", "bpe_legacy", "qwen2", "metaspace_nfd", "nfc", "nfd_lower", "nfkc_strip", "replace")
    shown, expected = [], []
    for text, row, encoding in zip(texts, ours, encodings, strict=True):
        character = offsets_of(text)
        ranges = row["ranges"]
        assert all(0 <= a <= b < len(character) for a, b in ranges)
        assert all(a[0] <= b[0] for a, b in zip(ranges, ranges[1:], strict=False)), (text, ranges)
        row = []
        for id, (begin, end), theirs in zip(encoding.ids, ranges, encoding.offsets, strict=True):
            place = (character[begin], character[end - 1] + 1 if end > begin else character[begin])
            # An added token's white space is not its own, an added blank stands for nothing, and a composed character
            # for all that it was made of: tokenizers' answers differ there, and where byte tokens and unknown ones mix.
            agrees = (
                (id in added and theirs[0] <= place[0] and place[1] <= theirs[1])
                or begin == end
                or (normalizes and place[0] <= theirs[0] and theirs[1] <= place[1])
                or kind == "some_bytes"
            )
            row.append(theirs if agrees else place)
        shown.append(row)
        expected.append(encoding.offsets)
    assert_equal(list(zip(texts, [e.tokens for e in encodings])), shown, expected, "offsets")


def cut_inside(text, names, at):
    """Whether byte `at` is inside a spelling of one of `names`."""
    data = text.encode()
    return any(data.find(name.encode(), max(0, at - len(name) + 1), at + len(name) - 1) >= 0 for name in names)


def crossed(row, cuts):
    return sorted({cut for cut in cuts if any(begin < cut < end for begin, end in row["ranges"])})


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_crosses_a_cut(tokenize, texts, made, kind):  # noqa: F811
    folder, peer = made(kind)
    names = [token.content for token in peer.get_added_tokens_decoder().values() if token.special]
    rng = random.Random(5)
    whole, cut = [], []
    for parts in random_chats(names, texts, 500):
        row = rendered(parts)
        edges = [len(row["text"][:index].encode()) for index in range(len(row["text"]) + 1)]
        marks = rng.sample(edges, min(len(edges), rng.randrange(1, 5))) + [edge for plain in row["plain"][:2] for edge in plain]
        whole.append(row)
        cut.append({**row, "cuts": sorted(marks)})
    before, after = tokenize(folder, whole, "--text"), tokenize(folder, cut, "--text")
    for row, uncut, ours in zip(cut, before, after, strict=True):
        assert not crossed(ours, row["cuts"]), row
        would_cross = crossed(uncut, row["cuts"])
        assert set(ours["crossed"]) >= set(would_cross), row
        if not would_cross:
            assert ours == uncut, row
    assert any(row["crossed"] for row in after) and not all(row["crossed"] for row in after)
    if kind in ("llama3", "gpt4o", "mistral"):
        # A control token that is cut leaves the white space that it takes along.
        controls = {token.content for token in peer.get_added_tokens_decoder().values()}
        kept = [i for i, row in enumerate(after) if not any(cut_inside(cut[i]["text"], controls, at) for at in row["crossed"])]
        shown = [tokenize(folder, [rows[i]["ids"] for i in kept], "--decode") for rows in (after, before)]
        assert_equal([cut[i] for i in kept], *shown, "the text of cut tokens")


PAIRS = [("Q: What does a notary do?\nA:", " A notary witnesses signatures."), ("Answer: ", "Paris"), ("Answer:", "Paris"),
         ("", "x"), ("x", ""), ("", ""), ("e", "\u0301a"), ("<|im_start|>user\n", "\n\nHi<|im_end|>  "), ("a<|im_", "end|>b"),
         ("a <|im_end|>", "  b"), ("안녕", "하세요 👍"), ("a  ", "  b"), ("\u1100", "\u1161"), ("x ", "[INST] y")]  # fmt: skip


def rendered_pairs(folder, pairs, scratch):
    """Pairs as rows of prompt and completion, which a program reads: their rows by number, and how many edges were cut."""
    model, data = scratch / "model", scratch / "rows.jsonl"
    shutil.copytree(folder, model)
    config = model / "tokenizer_config.json"
    known = json.loads(config.read_text()) if config.exists() else {}
    config.write_text(json.dumps({**known, "eos_token": "<|im_end|>"}))
    data.write_text("".join(json.dumps({"prompt": prompt, "completion": text}) + "\n" for prompt, text in pairs))
    settings = {"template": "none", "max_length": 100000, "on_bad_row": "skip"}
    done = subprocess.run([Path(os.environ["QLORA_BIN"]) / "render_rows", "--model", model, "--data", data, "--settings",
                           json.dumps(settings)], capture_output=True, encoding="utf-8")  # fmt: skip
    assert done.returncode == 0, done.stderr
    *rows, statistics = (json.loads(line) for line in done.stdout.split("\n")[:-1])
    return {row["row"]: row for row in rows}, statistics["cut_edges"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_and_its_completion_are_one_text(tokenize, texts, made, tmp_path, kind):  # noqa: F811
    folder, peer = made(kind)
    rng = random.Random(9)
    plain_texts = fitting(texts, kind)
    pairs = PAIRS + [(rng.choice(plain_texts), rng.choice(plain_texts)) for _ in range(400)]
    # Here one token may stand for more and more text: its edge is cut though the prompt's ids are the first ones.
    absorbs = kind in ("some_bytes", "replace", "nfkc_strip", "unigram", "bpe_legacy")
    edges = [len(prompt.encode()) for prompt, _ in pairs]
    ours = tokenize(folder, [{"text": "".join(pair), "cuts": [edge]} for pair, edge in zip(pairs, edges)], "--text")
    end = peer.token_to_id("<|im_end|>")
    bare, full = (tokenize(folder, ["a"], "--special", *flags)[0] for flags in ([], ["--add-special"]))
    start = full[: next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)]
    rows, cut_edges = rendered_pairs(folder, pairs, tmp_path)
    equal = expected_cuts = 0
    for number, ((prompt, text), edge, row) in enumerate(zip(pairs, edges, ours, strict=True)):
        ids = peer.encode(prompt + text, add_special_tokens=False).ids
        alone = peer.encode(prompt, add_special_tokens=False).ids
        is_cut = row["crossed"] == [edge]
        assert row["ids"] == ids or is_cut, (prompt, text)
        prompt_tokens = sum(begin < edge for begin, _ in row["ranges"])
        assert all((begin < edge) == (i < prompt_tokens) for i, (begin, _) in enumerate(row["ranges"]))
        if ids[: len(alone)] == alone and not (absorbs and is_cut):
            equal += 1
            assert not is_cut, (prompt, text)
            # What these drop at the end of a text stands in the middle of one, and is the prompt's here. An unknown token
            # for characters on both sides of a known byte stands behind the byte, with no bytes of its own.
            at_edge = row["ranges"][prompt_tokens : len(alone)]
            is_behind = kind == "some_bytes" and all(place == [edge, edge] for place in at_edge)
            assert prompt_tokens == len(alone) or (absorbs and prompt_tokens > len(alone)) or is_behind, (prompt, text)
        # A row is refused that says nothing, or begins with two BOS where the folder names one.
        begins_twice = bool(start) and row["ids"][:1] == start[-1:]
        assert (number in rows) == bool(text.strip()) or (begins_twice and number not in rows), (prompt, text)
        if number in rows:
            expected_cuts += is_cut
            expected = start + row["ids"]
            expected += [end] * (expected[-1] != end)
            assert rows[number]["ids"] == expected, (prompt, text)
            trained = [i for i, is_trained in enumerate(rows[number]["supervised"]) if is_trained]
            assert trained == list(range(max(1, len(start) + prompt_tokens), len(expected))), (prompt, text)
    assert equal > len(pairs) // 3 and cut_edges == expected_cuts


THOUGHTS = ["<think>x</think>y", "a <think>  b", "<pad> <image>x</think>", "<s>a<unk></s>b", "<think><|im_end|>\n x"]
FILES = {
    "list": {"extra_special_tokens": ["<think>", "</think>"], "pad_token": "<pad>"},
    "object": {"extra_special_tokens": {"image_token": "<image>", "end": "</think>"}, "additional_special_tokens": ["<think>"]},
    "older": {"additional_special_tokens": ["<think>"], "video_token": "<image>", "added_tokens_decoder": {
        "32000": {"content": "</think>", "lstrip": True, "special": False}}},
    "oldest": {"pad_token": "<pad>", "added_tokens.json": {"<think>": 32001, "<|im_end|>": 32000},
               "special_tokens_map.json": {"pad_token": "<image>", "additional_special_tokens": ["<|im_end|>", "</think>"]}},
    "two lists": {"extra_special_tokens": ["<think>"], "special_tokens_map.json": {
        "extra_special_tokens": ["</think>", "<pad>"], "additional_special_tokens": ["<image>"]}},
    "list over list": {"additional_special_tokens": ["<think>"],
                       "special_tokens_map.json": {"additional_special_tokens": ["</think>"], "cls_token": "<pad>"}},
}  # fmt: skip


@pytest.mark.parametrize("vocabulary", ["tokenizer.model", "tokenizer.json"])
@pytest.mark.parametrize("name", FILES)
def test_special_tokens_of_every_file_that_transformers_reads(tokenize, tmp_path, name, vocabulary):
    shutil.copy(fetch_vocabularies() / "mistral_v1" / "tokenizer.model", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    if vocabulary == "tokenizer.json":
        AutoTokenizer.from_pretrained(tmp_path)._tokenizer.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer.model").unlink()
    config = dict(FILES[name])
    for file in ("added_tokens.json", "special_tokens_map.json"):
        if file in config:
            (tmp_path / file).write_text(json.dumps(config.pop(file)))
    config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "TokenizersBackend"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    peer = AutoTokenizer.from_pretrained(tmp_path)
    theirs = peer(THOUGHTS, add_special_tokens=False)["input_ids"]
    assert_equal(THOUGHTS, [row["ids"] for row in tokenize(tmp_path, [{"text": text} for text in THOUGHTS], "--text")], theirs, "ids")
    assert max(map(max, theirs)) >= 32000
