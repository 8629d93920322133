"""The WordNet instruction set: what data/README.md promises of the files, and that they can be remade."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import make_wordnet_data as wordnet_data


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def train(root):
    return rows_of(root / "data" / "wordnet_train.jsonl")


@pytest.fixture(scope="module")
def held_out(root):
    return rows_of(root / "data" / "wordnet_eval.jsonl")


def word_of(row):
    return row["messages"][1]["content"].partition(":")[0]


def definition_of(row):
    answer, question = row["messages"][2]["content"], row["messages"][1]["content"]
    return answer if row["task"] == "define" else question.partition(": ")[2]


def test_the_script_makes_the_committed_files_again(root, tmp_path):
    assert Path("/usr/share/wordnet/data.noun").is_file(), "install wordnet-base (scripts/setup.sh --tests)"
    script = root / "scripts" / "make_wordnet_data.py"
    subprocess.run([sys.executable, script, "--output", tmp_path], check=True, capture_output=True)
    for name in ("wordnet_train.jsonl", "wordnet_eval.jsonl", "WORDNET_LICENSE"):
        assert (tmp_path / name).read_bytes() == (root / "data" / name).read_bytes(), name


def test_counts_are_those_of_the_readme(root, train, held_out):
    readme = (root / "data" / "README.md").read_text(encoding="utf-8")
    for name, rows in (("train", train), ("eval", held_out)):
        line = re.search(
            rf"`wordnet_{name}.jsonl` \| (\d+) \| (\d+) `category` rows \((\d+) for each.* (\d+) `define`",
            readme.replace("19 for each category", "19 for each of"),
        )
        tasks = Counter(row["task"] for row in rows)
        categories = Counter(row["messages"][2]["content"] for row in rows if row["task"] == "category")
        assert set(categories) == set(wordnet_data.CATEGORIES)
        found = (len(rows), tasks["category"], *set(categories.values()), tasks["define"])
        assert tuple(map(int, line.groups())) == found


def test_every_row_has_the_three_messages_of_its_task(train, held_out):
    for row in train + held_out:
        assert list(row) == ["messages", "task"]
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][0]["content"] == wordnet_data.SYSTEM[row["task"]]
        assert len(definition_of(row).split()) in wordnet_data.DEFINITION_WORDS


def test_no_word_or_definition_is_in_two_rows(train, held_out):
    for part in (word_of, lambda row: definition_of(row).lower()):
        repeated = [value for value, count in Counter(map(part, train + held_out)).items() if count > 1]
        assert repeated == []


def test_the_answer_is_wordnets(train, held_out):
    """Each category row against data.noun itself, read here in another way than in the script."""
    files = {}
    for line in Path("/usr/share/wordnet/data.noun").read_text(encoding="latin-1").splitlines():
        if not line.startswith(" "):
            head, gloss = line.split(" | ")
            _, number, _, count, *members = head.split()
            plain = re.sub(r"\s+", " ", re.sub(r"\([^)]*\)", " ", gloss.split(";")[0])).strip()
            for word in members[: 2 * int(count, 16) : 2]:
                files[word, plain] = int(number)
    numbers = {
        "act": 4,
        "animal": 5,
        "artifact": 6,
        "body": 8,
        "communication": 10,
        "feeling": 12,
        "food": 13,
        "location": 15,
        "person": 18,
        "plant": 20,
        "substance": 27,
        "time": 28,
    }
    for row in train + held_out:
        number = files[word_of(row), definition_of(row)]
        if row["task"] == "category":
            assert number == numbers[row["messages"][2]["content"]], row


def test_files_stay_small(root):
    assert all(path.stat().st_size < 1_000_000 for path in (root / "data").iterdir())


def test_missing_wordnet_is_one_sentence(root, tmp_path):
    script = root / "scripts" / "make_wordnet_data.py"
    result = subprocess.run(
        [sys.executable, script, "--wordnet", tmp_path, "--output", tmp_path], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "wordnet-base" in result.stderr


def test_the_chat_sample_holds_alternating_turns_with_korean(root):
    rows = rows_of(root / "data" / "chat_sample.jsonl")
    assert len(rows) == 12
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert turns
    text = "".join(message["content"] for row in rows for message in row["messages"])
    assert re.search("[가-힣]", text)
