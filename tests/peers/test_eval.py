"""qlora-eval against transformers: losses, per-token log probabilities, greedy generation; and what it prints."""

import json
import math
import subprocess
import unicodedata

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROWS = 24
NEW_TOKENS = 12


def run_eval(bin_dir, *flags, code=0):
    run = subprocess.run([bin_dir / "qlora-eval", *map(str, flags)], capture_output=True, text=True, timeout=300)
    assert run.returncode == code, run.stderr
    return run


def summary_of(run):
    lines = run.stdout.splitlines()
    assert len(lines) == 1, f"stdout must hold exactly one line: {run.stdout!r}"
    return json.loads(lines[0])


@pytest.fixture(scope="module")
def model(smollm2):
    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)


@pytest.fixture(scope="module")
def rows(root):
    lines = (root / "data" / "wordnet_eval.jsonl").read_text().splitlines()[:ROWS]
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def evaluated(bin_dir, smollm2, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = run_eval(bin_dir, "--model", smollm2, "--data", data, "--per-token", folder / "tokens.jsonl", "--generate",
                   "--max-new-tokens", NEW_TOKENS, "--generations", folder / "generations.jsonl")
    read = lambda name: [json.loads(line) for line in (folder / name).read_text().splitlines()]  # noqa: E731
    return summary_of(run), read("tokens.jsonl"), read("generations.jsonl")


def test_the_log_probability_of_every_token_equals_transformers(model, evaluated):
    summary, tokens, _ = evaluated
    assert [line["row"] for line in tokens] == list(range(ROWS))
    loss, count, correct = 0.0, 0, 0
    for line in tokens:
        ids = torch.tensor([line["ids"]])
        with torch.no_grad():
            scores = model(ids).logits[0].log_softmax(-1)
        expected = scores[:-1].gather(1, ids[0, 1:, None])[:, 0]
        assert line["logprobs"][0] is None
        ours = torch.tensor(line["logprobs"][1:])
        # fp32 sums in another order: 1e-4 in a log probability is 0.01 % of the probability.
        assert (ours - expected).abs().max() < 1e-4
        mask = torch.tensor(line["supervised"][1:])
        loss -= expected[mask].sum().item()
        count += int(mask.sum())
        correct += int((scores[:-1].argmax(-1) == ids[0, 1:])[mask].sum())
    assert summary["supervised_tokens"] == count and summary["rows"] == ROWS and summary["dropped"] == 0
    assert summary["loss"] == pytest.approx(loss / count, rel=1e-5)
    assert summary["perplexity"] == pytest.approx(math.exp(summary["loss"]), rel=1e-12)
    assert summary["token_accuracy"] == pytest.approx(correct / count, abs=1e-9)


def test_greedy_generation_equals_transformers(model, smollm2, rows, evaluated):
    _, _, generations = evaluated
    tokenizer = AutoTokenizer.from_pretrained(smollm2, padding_side="left")
    batch = tokenizer.apply_chat_template([row["messages"][:-1] for row in rows], add_generation_prompt=True,
                                          padding=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        out = model.generate(**batch, max_new_tokens=NEW_TOKENS, do_sample=False)
    expected = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1]:], skip_special_tokens=True)
    same = 0
    for row, line, text in zip(rows, generations, expected, strict=True):
        assert line["expected"] == row["messages"][-1]["content"]
        assert line["prompt"] in row["messages"][-2]["content"]
        same += line["generated"] == text
    # Two equally likely tokens may change places between two orders of summation; more than one row in 24 may not.
    assert same >= ROWS - 1


def normalized(text):
    return " ".join(unicodedata.normalize("NFKC", text).split()).lower()


def test_exact_match_is_the_share_of_equal_normalized_answers(rows, evaluated):
    summary, _, generations = evaluated
    for line in generations:
        assert line["match"] == (normalized(line["generated"]) == normalized(line["expected"]))
    assert summary["exact_match"] == sum(line["match"] for line in generations) / ROWS
    assert set(summary["exact_match_by_task"]) == {row["task"] for row in rows}


def test_exact_match_folds_width_case_and_white_space(bin_dir, smollm2, tmp_path):
    """The expected answer is the generated one in another spelling."""
    prompt = {"role": "user", "content": "What is the capital of France?"}
    data, out = tmp_path / "a.jsonl", tmp_path / "g.jsonl"

    def evaluate(answer):
        data.write_text(json.dumps({"messages": [prompt, {"role": "assistant", "content": answer}]}) + "\n")
        run = run_eval(bin_dir, "--model", smollm2, "--data", data, "--generate", "--max-new-tokens", 16,
                       "--generations", out)
        return summary_of(run)["exact_match"], json.loads(out.read_text())["generated"]

    _, generated = evaluate("x")
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in generated.upper())
    assert evaluate("  " + wide.replace(" ", " \t "))[0] == 1.0
    assert evaluate(generated + " indeed")[0] == 0.0


def test_quantization_of_the_command_line_changes_the_base(bin_dir, smollm2, rows, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows[:8]))
    dense = summary_of(run_eval(bin_dir, "--model", smollm2, "--data", data))
    packed = summary_of(run_eval(bin_dir, "--model", smollm2, "--data", data, "--quantization", "nf4"))
    assert dense["loss"] != packed["loss"] and packed["loss"] == pytest.approx(dense["loss"], rel=0.1)
    limited = summary_of(run_eval(bin_dir, "--model", smollm2, "--data", data, "--limit", 3))
    assert limited["rows"] == 3


@pytest.mark.parametrize("flags,words", [
    ([], ["--model", "--data"]),
    (["--model", "no-such-folder", "--data", "x.jsonl"], ["there is no", "no-such-folder"]),
    (["--model", "{model}", "--data", "no-such-file.jsonl"], ["no-such-file.jsonl"]),
    (["--model", "{model}", "--data", "{data}", "--format", "alpacca"], ["--format", "alpaca"]),
    (["--model", "{model}", "--data", "{data}", "--template", "vicuna"], ["--template", "chatml"]),
    (["--model", "{model}", "--data", "{data}", "--quantization", "int8"], ["--quantization", "nf4"]),
    (["--model", "{model}", "--data", "{data}", "--generations", "g.jsonl"], ["--generations", "--generate"]),
    (["--model", "{model}", "--data", "{data}", "--adapter", "{model}"], ["adapter_config.json"]),
    (["--model", "{model}", "--data", "{data}", "--device", "cuda"], ["--device", "NVIDIA driver"]),
    (["--model", "{model}", "--data", "{data}", "--no-such-flag"], ["--no-such-flag"]),
])
def test_wrong_input_is_one_clear_sentence_and_exit_code_2(bin_dir, smollm2, root, flags, words):
    values = {"model": smollm2, "data": root / "data" / "wordnet_eval.jsonl"}
    run = run_eval(bin_dir, *[flag.format(**values) for flag in flags], code=2)
    assert run.stdout == ""
    for word in words:
        assert word in run.stderr
    assert "terminate" not in run.stderr and "frame #" not in run.stderr
