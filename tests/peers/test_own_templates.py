"""Real chat templates on rows: token ids and masks against transformers' apply_chat_template, on each kind of tokenizer.

The templates are those of test_jinja.py. A tokenizer that is trained on the spot has every control token that they write.
QLORA_BIN: folder of the built programs. QLORA_FULL=1: all templates, not every third one.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from chat_corpus import CONVERSATIONS, TOOL, fixed_clock
from fetch_chat_templates import fetch_chat_templates
from tokenizers import AddedToken, pre_tokenizers
from trained_tokenizers import LLAMA3, byte_level, llama2
from transformers import AutoTokenizer

from tokenizers import Regex

FULL = bool(os.environ.get("QLORA_FULL"))
CONTROL = re.compile(r"<[|｜][^\s|｜<>{}'\"]+[|｜]>|</?(?:s|bos|eos|start_of_turn|end_of_turn|think|tool_call)>|\[/?INST\]")
WORDS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
# Why a row that transformers renders is refused here, in our words.
OURS = re.compile("leaves out|changes|has no place for|writes other turns|marks text as an answer")


def metaspace(scheme):
    def make():
        peer = llama2()
        peer.normalizer = None
        peer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        return peer

    return make


KINDS = {
    "byte level": lambda: byte_level(pre_tokenizers.Split(Regex(LLAMA3), "isolated")),
    "prepended blank": llama2,
    "metaspace first": metaspace("first"),
    "metaspace always": metaspace("always"),
}


@pytest.fixture(scope="module")
def templates():
    every = fetch_chat_templates()
    return dict(list(every.items())[:: 1 if FULL else 3])


@pytest.fixture(scope="module", params=KINDS)
def model(request, templates, tmp_path_factory):
    peer = KINDS[request.param]()
    controls = sorted({token for text in templates.values() for token in CONTROL.findall(text)} | {"<s>", "</s>"})
    words = [token for token in controls if token in WORDS]  # as Qwen3 has them: a message may say them too
    peer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in controls if token not in words])
    peer.add_tokens([AddedToken(token, normalized=False) for token in words])
    folder = tmp_path_factory.mktemp("model")
    peer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def render(model, data, template, scratch, on_bad_row):
    settings = {"template": str(template), "on_bad_row": on_bad_row, "train_on": "last_assistant", "max_length": 100000}
    command = [Path(os.environ["QLORA_BIN"]) / "render_rows", "--model", model, "--data", data, "--settings",
               json.dumps(settings), "--rejected", scratch / "rejected.jsonl"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def our_rows(model, data, template, scratch):
    """The rows by their places, the statistics, and why the others are refused."""
    done = render(model, data, template, scratch, "skip")
    if done.returncode != 0:  # where no row is left, the reasons are in the message
        faults = re.findall(r":(\d+): (.*)", render(model, data, template, scratch, "stop").stderr)
        return {}, {}, {int(line) - 1: reason for line, reason in faults}
    lines = (json.loads(line) for line in (scratch / "rejected.jsonl").read_text(encoding="utf-8").splitlines())
    rejected = {int(line["fault"].split(": ")[0].rpartition(":")[2]) - 1: line["fault"] for line in lines}
    *rows, statistics = (json.loads(line) for line in done.stdout.split("\n")[:-1])
    return {row["row"]: row for row in rows}, statistics, rejected


def theirs(tokenizer, text, conversation):
    try:
        with fixed_clock():
            return tokenizer.apply_chat_template(
                CONVERSATIONS[conversation], chat_template=text, tokenize=True, return_dict=True,
                tools=[TOOL] if conversation == "tools" else None,
                return_assistant_tokens_mask="endgeneration" in text,
            )
    except Exception:  # noqa: BLE001 - whatever a template can raise
        return None


def test_ids_and_masks_are_those_of_apply_chat_template(model, templates, tmp_path, capsys):
    tokenizer = AutoTokenizer.from_pretrained(model)
    names = list(CONVERSATIONS)
    data = tmp_path / "rows.jsonl"
    with data.open("w", encoding="utf-8") as out:
        for name in names:
            row = {"messages": CONVERSATIONS[name]} | ({"tools": [TOOL]} if name == "tools" else {})
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    equal, cut, refused, masks, faults = 0, 0, 0, 0, []
    for name, text in templates.items():
        file = tmp_path / "template.jinja"
        file.write_text(text, encoding="utf-8")
        rows, statistics, rejected = our_rows(model, data, file, tmp_path)
        for place, conversation in enumerate(names):
            expected = theirs(tokenizer, text, conversation)
            if place not in rows:
                refused += 1
                if expected is not None and not OURS.search(rejected.get(place, "")):
                    faults.append(f"{name}, {conversation}: refused: {rejected.get(place)}")
                continue
            ids = rows[place]["ids"]
            if expected is None:
                faults.append(f"{name}, {conversation}: transformers refuses it")
            elif ids == expected["input_ids"]:
                equal += 1
                if "endgeneration" in text:
                    # The last answer alone is trained: the last run of transformers' mask.
                    mask = expected["assistant_masks"]
                    last = max(i for i, value in enumerate(mask) if value) if any(mask) else -1
                    begin = last
                    while begin > 0 and mask[begin - 1]:
                        begin -= 1
                    ours = [i for i, value in enumerate(rows[place]["supervised"]) if value]
                    if ours != list(range(begin, last + 1)):
                        faults.append(f"{name}, {conversation}: mask {ours}, not {begin} to {last}")
                    masks += 1
            elif statistics["cut_edges"] > 0 and tokenizer.decode(ids) == tokenizer.decode(expected["input_ids"]):
                cut += 1
            else:
                first = next((i for i, pair in enumerate(zip(ids, expected["input_ids"])) if pair[0] != pair[1]), -1)
                faults.append(f"{name}, {conversation}: token {first}: {tokenizer.convert_ids_to_tokens(ids[first-2:first+6])},"
                              f" not {tokenizer.convert_ids_to_tokens(expected['input_ids'][first-2:first+6])}")
    with capsys.disabled():
        print(f"\n{len(templates)} templates: {equal} rows equal, {cut} cut at an edge, {refused} refused, {masks} masks")
    assert not faults, "\n".join(faults)
    assert equal > 2 * len(templates)


def said(role, content, **fields):
    return {"role": role, "content": content, **fields}


# Rows whose words tell what is trained: YES in answers that are, NO in all else.
TOLD = [
    [said("system", "NO"), said("user", "NO"), said("assistant", "YES 1"), said("user", "NO"), said("assistant", "YES 2")],
    [said("assistant", "YES 1"), said("user", "NO"), said("assistant", "YES 2")],
    [said("system", "NO"), said("assistant", "YES 1"), said("user", "NO"), said("assistant", "YES 2")],
    [said("user", "NO"), said("assistant", "NO", weight=0), said("user", "NO"), said("assistant", "YES 1")],
    [said("user", "NO"), said("assistant", "YES 1"), said("assistant", "YES 2"), said("user", "NO")],
]  # fmt: skip


@pytest.mark.parametrize("model", ["byte level"], indirect=True)
def test_exactly_the_answers_are_trained(model, templates, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in TOLD), encoding="utf-8")
    settings = {"on_bad_row": "skip", "max_length": 100000}
    tested = 0
    for name, text in templates.items():
        file = tmp_path / "template.jinja"
        file.write_text(text, encoding="utf-8")
        command = [Path(os.environ["QLORA_BIN"]) / "render_rows", "--model", model, "--data", data, "--settings",
                   json.dumps(settings | {"template": str(file)})]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        for row in map(json.loads, done.stdout.split("\n")[:-2]):
            trained = tokenizer.decode([id for id, on in zip(row["ids"], row["supervised"]) if on])
            assert re.findall(r"YES \d|NO", trained) == re.findall(r"YES \d", json.dumps(TOLD[row["row"]])), (name, trained)
            # Kimi, Qwen and others begin with a system turn of their own.
            assert not re.search("You are", trained), (name, trained)
            tested += 1
    assert tested > 3 * len(templates)


def injections(controls):
    """Texts that spell control tokens, whole, in halves, and with what templates put around a text."""
    first, second = controls[0], controls[-1]
    for token in (first, second, "</s>", "<s>"):
        half = len(token) // 2
        yield from (token, f"a{token}b", token + token, token[half:] + " b " + token[:half], f" {token}\n{token} ")


@pytest.mark.parametrize("model", ["byte level", "metaspace first"], indirect=True)
def test_no_message_forms_a_control_token(model, templates, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    special -= {tokenizer.convert_tokens_to_ids(word) for word in WORDS}
    tested = 0
    for name, text in templates.items():
        controls = sorted(set(CONTROL.findall(text)) - set(WORDS)) or ["<s>"]
        texts = ["plain words", *injections(controls)]
        rows = [{"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": said}]} for said in texts]
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        file = tmp_path / "template.jinja"
        file.write_text(text, encoding="utf-8")
        kept, _, _ = our_rows(model, data, file, tmp_path)
        counts = {place: [id for id in row["ids"] if id in special] for place, row in kept.items()}
        for place, found in counts.items():
            if 0 in counts:
                assert found == counts[0], (name, texts[place], tokenizer.convert_ids_to_tokens(found))
                tested += 1
    assert tested > 10 * len(templates)


# --- reports of people ---------------------------------------------------------------------------------------------------

CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
PAIRS = [("Q: What does a notary do?\nA:", " A notary witnesses signatures."), ("Answer: ", "Paris"), ("Answer:", "Paris")]


def rows_of(model, rows, scratch, **settings):
    data = scratch / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [Path(os.environ["QLORA_BIN"]) / "render_rows", "--model", model, "--data", data, "--settings",
               json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    *rows, statistics = (json.loads(line) for line in done.stdout.split("\n")[:-1])
    return rows, statistics


def test_an_answer_begins_without_a_blank_of_its_own(model, tmp_path):
    """ChatML on tokenizers that mark blanks: what is between control tokens is one text."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    messages = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello friend."},
                {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "So long."}]
    expected = tokenizer.apply_chat_template(messages, chat_template=CHATML, return_dict=True)["input_ids"]
    (row,), _ = rows_of(model, [{"messages": messages}], tmp_path, template="chatml")
    assert row["ids"] == expected
    trained = tokenizer.convert_ids_to_tokens([id for id, on in zip(row["ids"], row["supervised"]) if on])
    assert not trained[0].startswith("▁") and trained.count("<|im_end|>") == 2, trained


def test_a_pair_of_strings_is_one_text(model, tmp_path):
    """TRL's ids and mask; where a token would cross the prompt's end, it is cut there and counted."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows, statistics = rows_of(model, [{"prompt": p, "completion": c} for p, c in PAIRS], tmp_path, template="none")
    cut = 0
    for (prompt, completion), row in zip(PAIRS, rows):
        whole = tokenizer(prompt + completion, add_special_tokens=False)["input_ids"]
        alone = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = row["ids"][row["ids"][0] == tokenizer.bos_token_id:]
        assert ids[-1] == tokenizer.eos_token_id
        trained = row["supervised"][len(row["ids"]) - len(ids):]
        if whole[:len(alone)] == alone:
            assert ids[:-1] == whole
            assert trained == [i >= len(alone) for i in range(len(ids))]
        else:
            cut += 1
            assert tokenizer.decode(ids[:-1]) == prompt + completion
            begin = trained.index(True)
            assert tokenizer.decode(ids[:begin]) == prompt.rstrip() or tokenizer.decode(ids[:begin]) == prompt
    assert statistics["cut_edges"] == cut
