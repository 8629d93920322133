"""The template that was trained, as transformers reads it from adapter and merged folder: same ids, same end."""

import json
import shutil
import subprocess

import pytest
from peft_loop import qlora_train
from transformers import AutoTokenizer, GenerationConfig

LLAMA3_TOKENS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def turns(*contents, system=None):
    messages = [{"role": "system", "content": system}] if system is not None else []
    return messages + [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


SINGLE = [turns("What's 2 + 2?", "4."), turns("", "An empty question\nand two lines"), turns("서울은?", "비가 옵니다 😀")]
MANY = [
    turns("Hi", "Hello!", "A 'quoted' \\ word\n\n", "Fine {{ not }} {% Jinja %}", "And?", "So."),
    turns("  spaces around  ", "x \t", system="Be brief.\n"),
    turns("one", "two", system=""),
    turns("one", "two", "three"),
]


@pytest.mark.parametrize("name,conversations", [("chatml", SINGLE + MANY), ("llama3", SINGLE + MANY), ("alpaca", SINGLE)])
def test_our_jinja_gives_our_ids(bin_dir, tiny_model, tmp_path, name, conversations):
    folder = tmp_path / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    tokenizer.add_special_tokens({"additional_special_tokens": LLAMA3_TOKENS})
    tokenizer.save_pretrained(folder)
    data, template = tmp_path / "rows.jsonl", tmp_path / "template.jinja"
    rows = [
        {"instruction": row[0]["content"], "output": row[1]["content"]} if name == "alpaca" else {"messages": row}
        for row in conversations
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run([bin_dir / "render_rows", "--model", folder, "--data", data, "--template", name,
                           "--chat-template", template], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()[:-1]]
    assert len(lines) == len(conversations)
    tokenizer.chat_template = template.read_text()
    for messages, line in zip(conversations, lines):
        assert tokenizer.apply_chat_template(messages, return_dict=False) == line["ids"], messages
        if messages[-1]["role"] == "assistant":
            prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
            assert prompt == line["ids"][: line["answer_begin"]]
    if name == "alpaca":
        with pytest.raises(Exception, match="one instruction and one answer"):
            tokenizer.apply_chat_template(MANY[0], tokenize=False)


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    """A base model: it has no chat template, and stops at <|endoftext|>."""
    folder = tmp_path_factory.mktemp("base") / "model"
    shutil.copytree(tiny_model(), folder)
    (folder / "chat_template.jinja").unlink()
    for name, values in (("config.json", {"eos_token_id": 0}), ("tokenizer_config.json", {"eos_token": "<|endoftext|>"}),
                         ("generation_config.json", {"eos_token_id": 0, "top_k": 7})):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


def train(bin_dir, folder, model, template):
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" if template != "none" else
                                               json.dumps({"text": row[-1]["content"]}) + "\n" for row in SINGLE))
    return qlora_train(bin_dir, folder, {
        "model": {"path": str(model)},
        "data": {"train": "rows.jsonl", "template": template},
        "training": {"max_steps": 1, "sample_rows": 0},
    }) / "adapter"  # fmt: skip


def merge(bin_dir, model, adapter, output):
    subprocess.run([bin_dir / "qlora-merge", "--model", model, "--adapter", adapter, "--output", output], check=True,
                   capture_output=True)
    return output


def test_a_base_trained_with_chatml_talks_and_stops_in_it(bin_dir, base, tmp_path):
    adapter = train(bin_dir, tmp_path / "run", base, "chatml")
    merged = merge(bin_dir, base, adapter, tmp_path / "merged")
    ids = {}
    for folder in (adapter, merged):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids[folder] = [tokenizer.apply_chat_template(row, return_dict=False) for row in MANY[:3]]
        assert tokenizer.decode(ids[folder][2]) == (
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n")
    # `auto` knows the template again, of the merged model and of the adapter.
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in MANY[:3]))
    for flags in (["--model", merged], ["--model", base, "--adapter", adapter]):
        subprocess.run([bin_dir / "qlora-eval", *flags, "--data", tmp_path / "eval.jsonl", "--per-token",
                        tmp_path / "tokens.jsonl"], check=True, capture_output=True)
        lines = (tmp_path / "tokens.jsonl").read_text().splitlines()
        assert [json.loads(line)["ids"] for line in lines] == ids[merged]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    before, after = (json.loads((folder / "generation_config.json").read_text()) for folder in (base, merged))
    assert after == {**before, "eos_token_id": [0, end]} and before["top_k"] == 7
    assert GenerationConfig.from_pretrained(merged).eos_token_id == [0, end]


def test_a_model_without_generation_config_gets_one_with_both_ends(bin_dir, base, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(base, model)
    (model / "generation_config.json").unlink()
    merged = merge(bin_dir, model, train(bin_dir, tmp_path / "run", model, "chatml"), tmp_path / "merged")
    assert GenerationConfig.from_pretrained(merged).eos_token_id == [0, 2]


def test_the_models_own_template_and_none_change_no_file(bin_dir, tiny_model, base, tmp_path):
    for number, (model, template) in enumerate([(tiny_model(), "none"), (base, "none")]):
        adapter = train(bin_dir, tmp_path / str(number), model, template)
        merged = merge(bin_dir, model, adapter, tmp_path / f"merged{number}")
        for name in ("chat_template.jinja", "tokenizer_config.json", "generation_config.json"):
            for folder in (adapter, merged):
                if name == "generation_config.json" and folder == adapter:
                    continue
                assert (folder / name).exists() == (model / name).exists()
                if (model / name).exists():
                    assert (folder / name).read_bytes() == (model / name).read_bytes()


def test_another_template_takes_the_place_of_the_models_own(bin_dir, tiny_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model(), model)
    # The older place of the same text.
    own = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": own}))
    adapter = train(bin_dir, tmp_path / "run", model, "alpaca")
    for folder in (adapter, merge(bin_dir, model, adapter, tmp_path / "merged")):
        assert json.loads((folder / "tokenizer_config.json").read_text()) == config
        text = AutoTokenizer.from_pretrained(folder).apply_chat_template(SINGLE[0], tokenize=False)
        assert text.endswith("### Instruction:\nWhat's 2 + 2?\n\n### Response:4.<|im_end|>")


TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}}
TOOL_USE = "{% for m in messages %}[{{ m.role }}|{{ tools[0].function.name }}]{{ m.content }}<|im_end|>{% endfor %}"


@pytest.mark.parametrize("in_files,template", [(True, "auto"), (True, "alpaca"), (False, "auto"), (False, "alpaca")])
def test_a_template_for_tools_goes_along(bin_dir, tiny_model, tmp_path, in_files, template):
    """As save_pretrained writes several templates: the default one, which was trained, and each other in a file of its own."""
    model = tmp_path / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    own = tokenizer.chat_template
    tokenizer.chat_template = {"default": own, "tool_use": TOOL_USE}
    shutil.copytree(tiny_model(), model)
    tokenizer.save_pretrained(model, save_jinja_files=in_files)
    if not in_files:
        (model / "chat_template.jinja").unlink()
    adapter = train(bin_dir, tmp_path / "run", model, template)
    folders = [adapter, merge(bin_dir, model, adapter, tmp_path / "merged")]
    if template == "auto":
        subprocess.run([bin_dir / "qlora-quantize", "--model", model, "--output", tmp_path / "small"], check=True,
                       capture_output=True)
        folders.append(tmp_path / "small")
    for folder in folders:
        read = AutoTokenizer.from_pretrained(folder)
        assert set(read.chat_template) == {"default", "tool_use"} and read.chat_template["tool_use"] == TOOL_USE
        assert (read.chat_template["default"] == own) == (template == "auto")
        text = read.apply_chat_template(SINGLE[0], tokenize=False)
        assert text.endswith("### Response:4.<|im_end|>") == (template == "alpaca")
        with_tools = read.apply_chat_template(SINGLE[0], tools=[TOOL], tokenize=False)
        assert with_tools == "[user|f]What's 2 + 2?<|im_end|>[assistant|f]4.<|im_end|>"
