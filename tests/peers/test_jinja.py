"""Chat templates rendered by the program's interpreter and by transformers: the same bytes, or both refuse.

QLORA_BIN: folder of the built programs. QLORA_FULL=1: also generated and mutated templates.
"""

import json
import os
import random

import pytest

from chat_corpus import (
    CLOCK_NUMBERS,
    CONVERSATIONS,
    SPECIAL_TOKENS,
    cases_of,
    fixed_clock,
    our_renderings,
    transformers_rendering,
)
from fetch_chat_templates import fetch_chat_templates
from jinja_expressions import EXPRESSIONS, REFUSED, TEMPLATES, VARIABLES
from jinja_grammar import mutated, random_template

FULL = bool(os.environ.get("QLORA_FULL"))


def case_of(template, variables=VARIABLES):
    return {"template": template, "variables": variables, "clock": CLOCK_NUMBERS}


def byte_spans(text, spans):
    """Spans of characters as spans of bytes; touching ones are one, empty ones none."""
    merged = []
    for begin, end in sorted(spans):
        begin, end = len(text[:begin].encode()), len(text[:end].encode())
        if begin == end:
            continue
        if merged and merged[-1][1] >= begin:
            merged[-1][1] = max(end, merged[-1][1])
        else:
            merged.append([begin, end])
    return merged


def merged_ranges(ranges):
    merged = []
    for begin, end in ranges:
        if merged and merged[-1][1] == begin:
            merged[-1][1] = end
        else:
            merged.append([begin, end])
    return merged


def difference(case, ours, theirs):
    """Why the two renderings differ, or None. A refusal of the template itself must have the same words."""
    if isinstance(theirs, Exception):
        if "error" not in ours:
            return f"transformers refuses ({theirs!r}), we give {ours['text'][:200]!r}"
        refused = ours["kind"] == "refused"
        if refused and str(theirs).replace("\n", "\\n")[:200] not in ours["error"]:
            return f"transformers says {theirs!r}, we say {ours['error']!r}"
        return None
    text, _ = theirs
    if "error" in ours:
        return f"transformers gives {text[:200]!r}, we refuse: {ours['error']}"
    if ours["text"] != text:
        return f"transformers gives\n{text!r}\nwe give\n{ours['text']!r}"
    covered = [place for part in ours["parts"] for place in part[:2]]
    data = text.encode()
    if covered and (covered[0] != 0 or covered[-1] != len(data) or covered[1:-1:2] != covered[2::2]):
        return f"the parts {ours['parts']} do not cover {text!r}"
    return None


def compare(cases, folder, names=None):
    ours = our_renderings(cases, folder)
    assert len(ours) == len(cases)
    faults, rendered, refused = [], 0, 0
    with fixed_clock():
        for number, (case, mine) in enumerate(zip(cases, ours)):
            theirs = transformers_rendering(case)
            refused += isinstance(theirs, Exception)
            rendered += not isinstance(theirs, Exception)
            if fault := difference(case, mine, theirs):
                faults.append(f"{names[number] if names else case['template']!r}: {fault}")
    assert not faults, f"{len(faults)} of {len(cases)} differ:\n" + "\n".join(faults[:5])
    return rendered, refused


def test_expressions_give_what_jinja2_gives(tmp_path):
    lines = [line for line in EXPRESSIONS.split("\n") if line]
    templates = ["[{{ " + line + " }}]" for line in lines] + TEMPLATES
    rendered, refused = compare([case_of(template) for template in templates], tmp_path)
    assert rendered > 500 and refused > 150


def test_what_is_not_supported_is_refused_by_name(tmp_path):
    """None of these is given another meaning in silence, though jinja2 knows most of them."""
    for template, ours in zip(REFUSED, our_renderings([case_of(template) for template in REFUSED], tmp_path)):
        assert "error" in ours, (template, ours)
        assert any(word in ours["error"] for word in ("not supported", "beyond", "no text of its own", "undefined",
                   "know the code", "unexpected character", "needs the name")), (template, ours)  # fmt: skip


@pytest.fixture(scope="module")
def corpus():
    return fetch_chat_templates()


def test_corpus_renders_to_the_same_bytes(corpus, tmp_path):
    cases, names = [], []
    for name, template in corpus.items():
        for case in cases_of(template):
            cases.append(case)
            names.append(f"{name} {json.dumps({**case['variables'], 'tools': '...'}, ensure_ascii=False)[:300]}")
    rendered, refused = compare(cases, tmp_path, names)
    assert len(corpus) == 142 and rendered + refused == 142 * 30
    assert rendered > 3800, "most templates take most conversations"


def test_real_templates_stay_far_from_the_limits(corpus, tmp_path):
    """A thousandth of each bound on time and memory is enough for every template and short conversation."""
    cases = [case for template in corpus.values() for case in cases_of(template)]
    small = our_renderings([{**case, "share_of_limits": 0.001} for case in cases], tmp_path)
    reached = [ours["error"] for ours in small if ours.get("kind") == "budget"]
    assert not reached, reached[:5]


def test_generation_blocks_have_transformers_spans(corpus, tmp_path):
    """In the templates of trl the block writes straight to the output, where transformers' spans are right."""
    cases = [
        case
        for name, template in corpus.items()
        if name.startswith("trl-") and "generation" in template and "endgeneration" in template
        for case in cases_of(template)
    ]
    checked = 0
    with fixed_clock():
        for case, ours in zip(cases, our_renderings(cases, tmp_path)):
            theirs = transformers_rendering(case)
            if isinstance(theirs, Exception):
                continue
            assert merged_ranges(ours["generation"]) == byte_spans(*theirs), case["template"]
            checked += bool(ours["generation"])
    assert checked > 500


def takes_blocks(name):
    """Templates of models that see pictures, which want a content as a list of blocks."""
    return any(word in name for word in ("idefics3", "smolvlm", "llava"))


def test_what_messages_say_is_found_in_its_origin(corpus, tmp_path):
    """Each answer of a plain conversation stands once in the parts that name it, whatever the template strips."""
    plain = CONVERSATIONS["system"][1:]
    blocks = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in plain]
    cases = [
        case_of(template, {"messages": blocks if takes_blocks(name) else plain, **SPECIAL_TOKENS})
        for name, template in corpus.items()
    ]
    found = 0
    for name, ours in zip(corpus, our_renderings(cases, tmp_path)):
        if "error" in ours:
            continue
        data = ours["text"].encode()
        field = "/content/0/text" if takes_blocks(name) else "/content"
        for index, turn in enumerate(plain):
            said = [
                data[begin:end].decode()
                for begin, end, kind, place, pointer, _ in ours["parts"]
                if (kind, place, pointer) == ("message", index, field)
            ]
            assert said == [turn["content"]], (name, index, said)
            found += 1
    assert found == 4 * 138, "all but the four templates that want tools or functions"


@pytest.mark.parametrize("count", [10_000 if FULL else 400])
def test_generated_templates(count, tmp_path):
    """What jinja2 and we both accept gives the same; nothing that jinja2 refuses is accepted."""
    draw = random.Random(11)
    cases = [case_of(random_template(draw)) for _ in range(count)]
    ours = our_renderings(cases, tmp_path)
    both = 0
    with fixed_clock():
        for case, mine in zip(cases, ours):
            theirs = transformers_rendering(case)
            if "error" in mine and not isinstance(theirs, Exception):
                # jinja2 folds constants: the slice of a constant that has none is undefined, that of a variable an error.
                named = ("not supported", "beyond 64 bits", "no text of its own", "cannot be sliced")
                assert mine["kind"] == "budget" or any(words in mine["error"] for words in named), (case, mine, theirs)
                continue
            assert not difference(case, mine, theirs), (case["template"], difference(case, mine, theirs))
            both += not isinstance(theirs, Exception)
    assert both > count // 4


@pytest.mark.skipif(not FULL, reason="QLORA_FULL=1: 200 mutations of each template")
def test_mutated_templates_end_with_a_sentence(corpus, tmp_path):
    """No mutation ends the program; what both accept gives the same bytes."""
    draw = random.Random(12)
    variables = next(cases_of(""))["variables"]
    for name, template in corpus.items():
        cases = [case_of(mutated(draw, template), variables) for _ in range(200)]
        ours = our_renderings(cases, tmp_path)
        assert len(ours) == len(cases), name
        with fixed_clock():
            for case, mine in zip(cases[::10], ours[::10]):
                theirs = transformers_rendering(case)
                if "error" not in mine and not isinstance(theirs, Exception):
                    assert mine["text"] == theirs[0], (name, case["template"])
