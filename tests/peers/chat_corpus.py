"""Chat templates rendered by transformers and by the program's interpreter; see test_jinja.py."""

import contextlib
import itertools
import json
import os
import subprocess
from datetime import datetime
from pathlib import Path
from unittest import mock

from transformers.utils import chat_template_utils

CLOCK = datetime(2026, 2, 9, 4, 5, 7, 89)
CLOCK_NUMBERS = [CLOCK.year, CLOCK.month, CLOCK.day, CLOCK.hour, CLOCK.minute, CLOCK.second, CLOCK.microsecond]
SPECIAL_TOKENS = {"bos_token": "<BOS>", "eos_token": "<EOS>", "unk_token": "<UNK>", "pad_token": "<PAD>"}

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "What the weather is like & will be, in a \"city\" <b>",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "한국 이름"},
                "days": {"type": "integer", "enum": [1, 2, 3], "default": 1},
                "items": {"type": "array", "items": {"type": "number"}, "minimum": 0.5},
                "nested": {"type": "object", "properties": {"deep": {"type": ["string", "null"]}}, "nullable": True},
            },
            "required": ["city"],
        },
        "return": {"type": "string"},
    },
}
CALL = {
    "id": "call12345",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "items": [1, 0.25], "wet": None}},
}


def turn(role, content, **fields):
    return {"role": role, "content": content, **fields}


CONVERSATIONS = {
    "system": [
        turn("system", "You are brief."), turn("user", "Hi!"), turn("assistant", "Hello."),
        turn("user", "And now?"), turn("assistant", "Now this."),
    ],
    "no system": [
        turn("user", "Hi!"), turn("assistant", "Hello."), turn("user", "And now?\n\n"), turn("assistant", "Now this.\n"),
    ],
    "tools": [
        turn("user", "Weather in Zürich?"),
        turn("assistant", "", tool_calls=[CALL]),
        turn("tool", "{\"sky\": \"blue\"}", name="get_weather", tool_call_id="call12345"),
        turn("assistant", "Blue."), turn("user", "Thanks"), turn("assistant", "You're welcome."),
    ],
    "reasoning": [
        turn("user", "2 + 2?"), turn("assistant", "4", reasoning_content="Two and two."),
        turn("user", "3 + 3?"), turn("assistant", "6", reasoning_content="Three\nand three.\n"),
    ],
    "korean": [
        turn("system", "  한국어로 답하세요.  "), turn("user", " 안녕 😀 "), turn("assistant", "\n반가워요 👩‍👩‍👧 \n"),
        turn("user", "<think>tags</think> & 'quotes' \"too\""), turn("assistant", "<think>\nso\n</think>\n\n네!"),
    ],
}  # fmt: skip


def cases_of(template, rotate=0):
    """All renderings of one template: conversations x enable_thinking x generation prompt."""
    for (name, messages), thinking, prompt in itertools.product(
        CONVERSATIONS.items(), (None, False, True), (False, True)
    ):
        variables = {"messages": messages, "add_generation_prompt": prompt, **SPECIAL_TOKENS}
        if name == "tools":
            variables["tools"] = [TOOL]
        if thinking is not None:
            variables["enable_thinking"] = thinking
        yield {"template": template, "variables": variables, "clock": CLOCK_NUMBERS}


@contextlib.contextmanager
def fixed_clock():
    clock = mock.Mock(wraps=datetime)
    clock.now.return_value = CLOCK
    with mock.patch.object(chat_template_utils, "datetime", clock):
        yield


def transformers_rendering(case):
    """(text, generation spans) of transformers, or the exception that it raises."""
    variables = dict(case["variables"])
    messages = variables.pop("messages")
    try:
        texts, spans = chat_template_utils.render_jinja_template(
            [messages], chat_template=case["template"], return_assistant_tokens_mask=True, **variables
        )
        texts[0].encode()  # half of a surrogate pair has no UTF-8
        return texts[0], spans[0]
    except Exception as error:  # noqa: BLE001 - whatever a template can raise
        return error


def our_renderings(cases, folder, prefix=()):
    """What jinja_render makes of the cases, one dict each."""
    bin_dir = os.environ.get("QLORA_BIN")
    assert bin_dir, "QLORA_BIN must name the folder of the built programs"
    file = Path(folder) / "cases.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for case in cases:
            out.write(json.dumps(case) + "\n")
    done = subprocess.run(
        [*prefix, str(Path(bin_dir) / "jinja_render"), str(file)], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # Not splitlines: a text may hold other line ends.
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]
