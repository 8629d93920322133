"""Rows rendered by the program's own code against transformers' apply_chat_template.

QLORA_BIN: folder of the built programs; QLORA_SMOLLM2: the SmolLM2-135M-Instruct folder.
"""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from transformers import AutoTokenizer

CONVERSATIONS = 100

FRAGMENTS = [
    "Hello there!", "How are you?", "안녕하세요, 오늘 날씨가 어때요?", "서울은 비가 옵니다.", "naïve café", "日本語のテキスト",
    "emoji 😀👩‍👩‍👧 and ﬁ ligature", "don't you'll WE'VE", "12345 and 3.14159 and 1,000,000", "a  b   c\td",
    "def f(x):\n    return x * 2\n", "```python\nfor i in range(10):\n\tprint(i)\n```", "- one\n- two\n\n\n- three",
    "x = {\"a\": [1, 2, {\"b\": null}]}", "<html><body class=\"x\">&amp;</body></html>", "im_start im_end < | > <|",
    "e\u0301 combining", "\u00a0non-breaking\u00a0", "zero\u200bwidth", "Straße ÄÖÜ ß", "مرحبا بالعالم", "ALL CAPS!!!???",
    "trailing spaces   ", "new\r\nline", "math: ∑ x² ≤ ∞ → ½", "tabs\t\tand\n\n\nlines", "🇰🇷", "한글 자모 ᄒ\u1161\u11ab",
]  # fmt: skip


def binary(name):
    folder = os.environ.get("QLORA_BIN")
    assert folder, "QLORA_BIN must name the folder of the built programs"
    path = Path(folder) / name
    assert path.exists(), f"{path} is missing: build it first"
    return path


@pytest.fixture(scope="module")
def model():
    folder = os.environ.get("QLORA_SMOLLM2")
    assert folder, "QLORA_SMOLLM2 must name the SmolLM2-135M-Instruct folder"
    return folder


@pytest.fixture(scope="module")
def tokenizer(model):
    return AutoTokenizer.from_pretrained(model)


def render(model, data, *options):
    command = [binary("render_rows"), "--model", model, "--data", str(data), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return lines[:-1], lines[-1]


def words(source):
    return source.choice([" ", "\n", "", "\n\n"]).join(source.choices(FRAGMENTS, k=source.randint(1, 6)))


def conversations():
    source = random.Random(7)
    rows = []
    for _ in range(CONVERSATIONS):
        messages = [{"role": "system", "content": words(source)}] if source.random() < 0.4 else []
        for _ in range(source.randint(1, 4)):
            messages.append({"role": "user", "content": source.choice(["", " ", "\n"]) + words(source)})
            # An answer that begins with white space is encoded apart from its header: see the test below.
            messages.append({"role": "assistant", "content": words(source).lstrip()})
        if source.random() < 0.2:
            messages.append({"role": "user", "content": words(source)})
        rows.append(messages)
    return rows


def write_rows(path, rows):
    path.write_text("".join(json.dumps({"messages": row}, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def template_ids(tokenizer, messages, generation_prompt=False):
    return tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=generation_prompt, return_dict=False
    )


def reference_mask(tokenizer, messages):
    """An answer begins where the prompt before it ends, and ends with the first end token of its own rendering."""
    mask = [False] * len(template_ids(tokenizer, messages))
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        begin = len(template_ids(tokenizer, messages[:i], generation_prompt=True))
        with_answer = template_ids(tokenizer, messages[: i + 1])
        end = begin + with_answer[begin:].index(tokenizer.convert_tokens_to_ids("<|im_end|>")) + 1
        mask[begin:end] = [True] * (end - begin)
    return mask


@pytest.mark.parametrize("train_on", ["assistant", "last_assistant", "all"])
def test_ids_and_mask_equal_the_checkpoints_chat_template(model, tokenizer, tmp_path, train_on):
    rows = conversations()
    rendered, statistics = render(
        model, write_rows(tmp_path / "rows.jsonl", rows), "--max-length", "100000", "--train-on", train_on
    )
    assert statistics["read"] == statistics["kept"] == len(rendered) == CONVERSATIONS
    for messages, row in zip(rows, rendered):
        assert row["ids"] == template_ids(tokenizer, messages)
        mask = reference_mask(tokenizer, messages)
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        prompt = template_ids(tokenizer, messages[:last], generation_prompt=True)
        assert row["ids"][: row["answer_begin"]] == prompt
        assert row["expected"] == messages[last]["content"]
        if train_on == "last_assistant":
            mask = [value and i >= len(prompt) for i, value in enumerate(mask)]
        if train_on == "all":
            mask = [i > 0 for i in range(len(mask))]
        assert row["supervised"] == mask


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


ROW_FORMS = [
    ({"instruction": "And its capital?", "input": "", "output": "Oslo.", "system": "Answer in one word.",
      "history": [["Name a country in the north.", "Norway."]]},
     turns(("system", "Answer in one word."), ("user", "Name a country in the north."), ("assistant", "Norway."),
           ("user", "And its capital?"), ("assistant", "Oslo."))),
    ({"conversations": [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "A pirate, arr."}],
      "system": "You speak like a pirate.", "tools": "[]"},
     turns(("system", "You speak like a pirate."), ("user", "Who are you?"), ("assistant", "A pirate, arr."))),
    ({"messages": turns(("developer", "Be brief."), ("user", "How cold is it?"), ("assistant", "One moment."),
                        ("tool", '{"t": -3}'), ("assistant", "-3 °C."))}, None),
    ({"id": 7, "system_prompt": "", "question": "6 * 7?", "response": "42"}, turns(("user", "6 * 7?"), ("assistant", "42"))),
]  # fmt: skip


def test_row_forms_give_the_ids_of_their_turns(model, tokenizer, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row, _ in ROW_FORMS))
    rendered, statistics = render(model, data)
    assert statistics["kept"] == len(ROW_FORMS)
    for (row, messages), ours in zip(ROW_FORMS, rendered):
        messages = messages or row["messages"]
        assert ours["ids"] == template_ids(tokenizer, messages)
        assert ours["supervised"] == reference_mask(tokenizer, messages)


def test_a_turn_of_weight_0_is_context(model, tokenizer, tmp_path):
    messages = turns(("user", "What is two plus two?"), ("assistant", "It is five."), ("user", "Look again."), ("assistant", "It is four."))
    row = [message | {"weight": weight} for message, weight in zip(messages, [0, 0, 0, 1])]
    (ours,), _ = render(model, write_rows(tmp_path / "rows.jsonl", [row]))
    assert ours["ids"] == template_ids(tokenizer, messages)
    trained = [token for token, counts in zip(ours["ids"], ours["supervised"]) if counts]
    assert tokenizer.decode(trained) == "It is four.<|im_end|>"


def test_an_answer_that_begins_with_white_space_keeps_the_prompts_tokens(model, tokenizer, tmp_path):
    rows = [
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]
        for content in ["  two spaces", "\n\ntwo lines", "\tindented\n\tcode"]
    ]
    rendered, _ = render(model, write_rows(tmp_path / "rows.jsonl", rows))
    for messages, row in zip(rows, rendered):
        prompt = template_ids(tokenizer, messages[:1], generation_prompt=True)
        answer = tokenizer.encode(messages[1]["content"], add_special_tokens=False)
        tail = tokenizer.encode("<|im_end|>\n", add_special_tokens=False)
        assert row["ids"] == prompt + answer + tail
        assert tokenizer.decode(row["ids"]) == tokenizer.apply_chat_template(messages, tokenize=False)


def test_content_that_spells_control_tokens_stays_text(model, tokenizer, tmp_path):
    controls = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<repo_name>"]
    contents = [pattern.format(token) for token in controls for pattern in
                ["{0}", "a {0} b", "{0}\n<|im_start|>system\nx", "{0}{0}", "{0}<|im_end|>"]]  # fmt: skip
    assert len(contents) == 20
    rows = [[{"role": "user", "content": c}, {"role": "assistant", "content": c}] for c in contents]
    rendered, _ = render(model, write_rows(tmp_path / "rows.jsonl", rows))
    assert len(rendered) == 20
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    for content, row in zip(contents, rendered):
        special = [(i, token) for i, token in enumerate(row["ids"]) if token in tokenizer.all_special_ids]
        assert [token for _, token in special] == [start, end] * 3  # system, user, assistant
        last_end = special[-1][0]
        supervised = [i for i, value in enumerate(row["supervised"]) if value]
        assert supervised == list(range(row["answer_begin"], last_end + 1))
        assert tokenizer.decode(row["ids"][row["answer_begin"] : last_end]) == content


def test_texts_are_tokenized_as_the_checkpoint_does_and_end_in_eos(model, tokenizer, tmp_path):
    texts = FRAGMENTS + ["a<|im_end|>b", "done<|im_end|>", "<|endoftext|>x"]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rendered, _ = render(model, path, "--template", "none")
    for text, row in zip(texts, rendered):
        ids = tokenizer(text)["input_ids"]
        if ids[-1] != tokenizer.eos_token_id:
            ids = ids + [tokenizer.eos_token_id]
        assert row["ids"] == ids
        assert row["supervised"] == [i > 0 for i in range(len(ids))]


def test_pairs_are_encoded_apart(model, tokenizer, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "The answer is", "completion": "n't clear", "task": "t"}) + "\n")
    (row,), _ = render(model, path, "--template", "none")
    prompt, completion = tokenizer.encode("The answer is"), tokenizer.encode("n't clear")
    assert row["ids"] == prompt + completion + [tokenizer.eos_token_id]
    assert row["supervised"] == [False] * len(prompt) + [True] * (len(completion) + 1)
    assert (row["prompt"], row["expected"], row["task"]) == ("The answer is", "n't clear", "t")
    assert row["answer_begin"] == len(prompt)


def test_named_chatml_adds_no_system_message(model, tokenizer, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]])
    (row,), _ = render(model, path, "--template", "chatml")
    assert tokenizer.decode(row["ids"]) == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"


def test_a_template_whose_tokens_are_missing_is_refused(model, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]])
    command = [binary("render_rows"), "--model", model, "--data", str(path), "--template", "llama3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "<|eot_id|>" in done.stderr and "chatml" in done.stderr


def test_rejected_rows_are_listed_with_their_lines(model, tmp_path):
    data, rejected = tmp_path / "rows.jsonl", tmp_path / "rejected.jsonl"
    data.write_bytes(b'{"text": "good"}\n{"text": \n\n[]\n{"text": "\xff"}\n{"text": "good too"}')
    rendered, statistics = render(model, data, "--on-bad-row", "skip", "--rejected", str(rejected))
    assert [row["place"] for row in rendered] == [f"{data}:1", f"{data}:6"]
    assert statistics["read"] == 5 == statistics["kept"] + statistics["dropped"] + statistics["rejected"]
    faults = [json.loads(line)["fault"] for line in rejected.read_text().splitlines()]
    assert [fault.split(": ")[0] for fault in faults] == [f"{data}:2", f"{data}:4", f"{data}:5"]
