"""The program that encodes and decodes for the tests, and how its answers are compared with a peer's."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from tokenizer_texts import make_texts


@pytest.fixture(scope="session")
def tokenize():
    """tokenize(folder, inputs, *flags) -> what tests/support/tokenize.cpp answers, one value an input."""
    folder = os.environ.get("QLORA_BIN")
    if not folder:
        pytest.fail("QLORA_BIN is not set: it names the folder with the built programs")
    program = Path(folder).resolve() / "tokenize"
    if not program.is_file():
        pytest.fail(f"QLORA_BIN={folder} holds no tokenize: build that target first")

    def run(model, inputs, *flags):
        lines = "".join(json.dumps(value) + "\n" for value in inputs)
        command = [str(program), "--model", str(model), *flags]
        result = subprocess.run(command, input=lines, capture_output=True, encoding="utf-8", check=False)
        assert result.returncode == 0, result.stderr
        answers = [json.loads(line) for line in result.stdout.split("\n")[:-1]]
        assert len(answers) == len(inputs)
        return answers

    return run


@pytest.fixture(scope="session")
def texts():
    return make_texts(2400)


def assert_equal(inputs, ours, theirs, what):
    differing = [(i, o, t) for i, o, t in zip(inputs, ours, theirs, strict=True) if o != t]
    shown = "\n".join(f"{i!r:.300}\n  ours   {o!r:.300}\n  theirs {t!r:.300}" for i, o, t in differing[:5])
    if differing:
        pytest.fail(f"{what}: {len(differing)} of {len(inputs)} differ\n{shown}", pytrace=False)


def assert_same(tokenize, folder, peer, texts):
    """Every way to encode and to decode agrees with `peer`, which has written `folder`/tokenizer.json."""
    for parse, add in ((False, False), (True, False), (True, True), (False, True)):
        peer.encode_special_tokens = not parse
        theirs = [e.ids for e in peer.encode_batch(texts, add_special_tokens=add)]
        flags = ["--special"] * parse + ["--add-special"] * add
        assert_equal(texts, tokenize(folder, texts, *flags), theirs, " ".join(["encode", *flags]))
    peer.encode_special_tokens = False
    rows = [e.ids for e in peer.encode_batch(texts)]
    rows += [row[1:-1] for row in rows if len(row) > 3][:300]  # cut anywhere, in the middle of characters too
    for skip in (False, True):
        theirs = [peer.decode(row, skip_special_tokens=skip) for row in rows]
        flags = ["--decode"] + ["--skip-special"] * skip
        assert_equal(rows, tokenize(folder, rows, *flags), theirs, " ".join(flags))


def assert_round_trip(tokenize, folder, texts):
    """What was encoded as plain text comes back as it was."""
    ids = tokenize(folder, texts)
    assert_equal(texts, tokenize(folder, ids, "--decode"), texts, "round trip")


def save(peer, folder):
    folder.mkdir(parents=True, exist_ok=True)
    peer.save(str(folder / "tokenizer.json"))
    return folder
