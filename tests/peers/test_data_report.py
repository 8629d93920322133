"""qlora-data on some 50 rows: its summary, its lines and its page, read as a browser would."""

import json
import subprocess
from html.parser import HTMLParser

import pytest

EVIL = "</pre></style><script>alert(1)</script><img src=x onerror=alert(2)> \u202e\u0007"
LONG = " ".join(f"w{i * 37 % 101}" for i in range(60))


def pair(prompt, completion):
    return {"prompt": [{"role": "user", "content": prompt}], "completion": [{"role": "assistant", "content": completion}]}


TRAIN = [pair(f"What is {i} plus {i}?", f"That is {2 * i}, as anybody can see for {'x' * i}.") for i in range(40)] + [
    pair("Pick a color.", "red"),
    pair("Pick a color.", "blue"),
    pair("Tell me about words.", LONG),
    pair("Tell me about words.", LONG),
    pair("Tell me about words!", LONG + " end"),
    pair("How do I do it?", "죄송하지만 도와드릴 수 없습니다."),
    pair("What do you drink?", "As an AI language model, I drink nothing."),
    pair(EVIL, EVIL),
    pair("Silence?", "..."),
    {"text": "A text of its own. " + EVIL},
]
HELD_OUT = [pair("Tell me about words.", LONG), pair("Say it again.", "so " + LONG), pair("New?", "Yes, new.")]
# Void elements of HTML that the page may use; all else must be closed.
VOID = {"meta"}


class Page(HTMLParser):
    """Elements by name, attributes, the anchors, and whether all elements close in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.names, self.ids, self.links, self.open, self.text = {}, set(), set(), [], ""
        self.attributes = set()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.names[name] = self.names.get(name, 0) + 1
        self.attributes |= {key for key, _ in attributes}
        self.ids |= {value for key, value in attributes if key == "id"}
        self.links |= {value for key, value in attributes if key == "href"}
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text += data


def write_rows(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def look(bin_dir, *flags, code=0):
    result = subprocess.run([bin_dir / "qlora-data", *map(str, flags)], capture_output=True, text=True, timeout=120)
    assert result.returncode == code, f"exit {result.returncode}: {result.stderr}"
    return result


@pytest.fixture(scope="module")
def looked(bin_dir, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("look")
    train, held_out = write_rows(folder / "train.jsonl", TRAIN), write_rows(folder / "held_out.jsonl", HELD_OUT)
    before = train.read_bytes()
    files = ["--output", folder / "rows.out.jsonl", "--html", folder / "page.html"]
    result = look(bin_dir, "--model", tiny_model(tie=True), "--data", train, "--eval", held_out, "--json", *files,
                  "--set", "data.template=chatml")
    assert train.read_bytes() == before
    lines = [json.loads(line) for line in (folder / "rows.out.jsonl").read_text().splitlines()]
    return folder, json.loads(result.stdout), lines, (folder / "page.html").read_text()


def test_the_summary_counts_what_was_put_in(looked):
    _, summary, _, _ = looked
    assert (summary["train_rows"], summary["eval_rows"], summary["rejected"]) == (50, 3, 0)
    found = summary["findings"]
    wanted = {"equal_prompt": 2, "exact_duplicate": 1, "leaked_row": 1, "leaked_words": 2, "refusing_answer": 1,
              "boilerplate_answer": 1, "empty_answer": 1, "other_script": 1, "copied_answer": 1, "dominating_answer": 0}
    assert {name: found[name] for name in wanted} == wanted
    # Two answers, one each: 2 ln 2 nats over all rows.
    assert summary["entropy_floor"]["nats_per_row"] == pytest.approx(2 * 0.6931471805599453 / 50)
    assert summary["max_length"][0]["max_length"] == 512


def test_each_row_has_a_line_with_its_place_and_findings(looked):
    folder, _, lines, _ = looked
    assert len(lines) == 53
    assert lines[41]["place"] == f"{folder / 'train.jsonl'}:42" and lines[41]["part"] == "train"
    assert [(one["name"], one["other"]) for one in lines[41]["findings"] if one["name"] == "equal_prompt"] == [
        ("equal_prompt", f"{folder / 'train.jsonl'}:41")]
    near = [one for one in lines[44]["findings"] if one["name"] == "near_duplicate"]
    assert near[0]["other"] == f"{folder / 'train.jsonl'}:43" and 0.8 <= near[0]["jaccard"] < 1
    leaked = [one for one in lines[50]["findings"] if one["name"] == "leaked_row"]
    assert leaked[0]["other"] == f"{folder / 'train.jsonl'}:43" and leaked[0]["other_part"] == "train"
    assert lines[50]["part"] == "eval" and lines[50]["row"] == 0


def test_the_page_is_whole_and_loads_and_runs_nothing(looked):
    page = Page(looked[3])
    assert not {"script", "img", "link", "iframe", "object", "base"} & set(page.names)
    assert not {name for name in page.attributes if name.startswith("on")} | ({"src"} & page.attributes)
    assert page.links and all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert page.names["svg"] >= 2 and page.names["rect"] > 2 and page.names["title"] > 2
    assert {"findings", "lengths", "equal_prompt", "exact_duplicate", "leaked_row", "refusing_answer"} <= page.ids
    assert "<script>alert(1)</script>" in page.text  # as text
    assert "\u202e" not in looked[3] and "[U+202E]" in page.text and "\u0007" not in looked[3]


def test_bad_input_is_named_and_nothing_is_written(bin_dir, looked, tiny_model, tmp_path):
    folder = looked[0]
    model = tiny_model(tie=True)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(TRAIN[0]) + "\n{cut\n" + json.dumps(TRAIN[1]) + "\n")
    output = tmp_path / "out.jsonl"
    flags = ["--model", model, "--set", "data.template=chatml", "--output", output]
    stopped = look(bin_dir, *flags, "--data", bad, code=2)
    assert f"{bad}:2" in stopped.stderr and stopped.stdout == "" and not output.exists()
    look(bin_dir, *flags, "--data", bad, "--set", "data.on_bad_row=skip")
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(lines) == 3 and lines[2]["place"] == f"{bad}:2" and "rejected" in lines[2]
    both = look(bin_dir, "--set", "training.seed=1", "--set", "peft.r=2", code=2).stderr
    assert "--model: is needed" in both and "--data: is needed" in both and "peft.r" in both
    train = folder / "train.jsonl"
    own = look(bin_dir, "--model", model, "--data", train, "--html", train, code=2)
    assert "is one of the data files" in own.stderr and train.read_text().startswith('{"prompt"')


def test_a_share_that_is_held_out_is_compared_with_the_rest(bin_dir, looked, tiny_model):
    result = look(bin_dir, "--model", tiny_model(tie=True), "--data", looked[0] / "train.jsonl", "--set",
                  "data.template=chatml", "--set", "data.eval=0.2", "--json")
    summary = json.loads(result.stdout)
    assert (summary["train_rows"], summary["eval_rows"]) == (40, 10)
