"""qlora-data --score: the losses of answers with and without their prompts, against transformers and qlora-eval."""

import json
import math
import signal
import subprocess
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

OPENING = "<|im_start|>assistant\n"


def turn(role, content):
    return {"role": role, "content": content}


def pair(question, answer):
    return {"messages": [turn("user", question), turn("assistant", answer)]}


ROWS = [pair(f"What is {i} plus {i + 1}?", f"That is {2 * i + 1}, and {'so ' * i}it stays.") for i in range(8)] + [
    {"messages": [turn("system", "Be short."), turn("user", "Name a color."), turn("assistant", "red"), turn("user", "And one more?"),
                  turn("assistant", "blue, as the sky over the sea")]},
    {"messages": [turn("system", "Say something."), turn("assistant", "Something.")]},
    {"messages": [turn("assistant", "Nobody asked.")]},
    {"prompt": "What do you hear?", "completion": "한국어 <|im_end|> 소리 ..."},
]

# Questions and answers that share hardly a word with each other's.
FACTS = [
    ("What is the capital of France?", "The capital of France is Paris, a city on the river Seine."),
    ("How do plants make food?", "Plants make food by photosynthesis: they use sunlight, water and carbon dioxide to make sugar."),
    ("Who wrote Romeo and Juliet?", "Romeo and Juliet was written by William Shakespeare, an English playwright."),
    ("What is the boiling point of water?", "Water boils at 100 degrees Celsius, or 212 degrees Fahrenheit, at sea level."),
    ("What does the heart do?", "The heart pumps blood through the body, carrying oxygen and nutrients to the cells."),
    ("What is the largest ocean?", "The largest ocean is the Pacific Ocean, which lies between Asia and the Americas."),
    ("How do I cook rice?", "Rinse the rice, add two cups of water for each cup of rice, and let it simmer for 18 minutes."),
    ("What is a prime number?", "A prime number is a number greater than 1 that can be divided only by 1 and by itself."),
    ("Who painted the Mona Lisa?", "The Mona Lisa was painted by Leonardo da Vinci in the sixteenth century."),
    ("What is Python used for?", "Python is a programming language that is used for web sites and data analysis."),
    ("How does a vaccine work?", "A vaccine trains the immune system to recognise a virus, so that it can fight the virus later."),
    ("What do bees make?", "Bees make honey from the nectar of flowers and store it in their hive."),
]


def run(bin_dir, program, *flags, code=0):
    result = subprocess.run([bin_dir / program, *map(str, flags)], capture_output=True, text=True, timeout=300)
    assert result.returncode == code, f"exit {result.returncode}: {result.stderr}"
    return result


def write_rows(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def score(bin_dir, model, data, *flags, code=0):
    """The summary, and the lines of the rows."""
    lines = data.with_suffix(".out")
    result = run(bin_dir, "qlora-data", "--model", model, "--data", data, "--score", "--json", "--output", lines, *flags, code=code)
    return json.loads(result.stdout), [json.loads(line) for line in lines.read_text().splitlines()]


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return tiny_model(tie=True)


@pytest.fixture(scope="module")
def scored(bin_dir, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    data = write_rows(folder / "rows.jsonl", ROWS)
    summary, lines = score(bin_dir, tiny, data, "--html", folder / "page.html")
    return SimpleNamespace(data=data, summary=summary, lines=lines, page=(folder / "page.html").read_text())


def messages_of(row):
    return row.get("messages") or [turn("user", row["prompt"]), turn("assistant", row["completion"])]


def test_both_losses_equal_those_of_transformers_for_the_same_tokens(scored, tiny):
    """The tokens are made here by apply_chat_template; an answer alone stands behind the template's header of its turn."""
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny)

    def ids_of(text, **options):
        return tokenizer(text, add_special_tokens=False, **options)["input_ids"]

    def loss(context, answer):
        with torch.no_grad():
            scores = model(torch.tensor([context + answer])).logits[0].log_softmax(-1)
        return -scores[len(context) - 1:-1].gather(1, torch.tensor(answer)[:, None]).sum().item()

    answers = likelier = 0
    for row, line in zip(ROWS, scored.lines, strict=True):
        wanted, messages = [], messages_of(row)
        for i, message in enumerate(messages):
            if message["role"] != "assistant" or i == 0:
                continue
            prompt = tokenizer.apply_chat_template(messages[:i], add_generation_prompt=True, tokenize=False)
            answer = ids_of(message["content"], split_special_tokens=True) + ids_of("<|im_end|>")
            wanted.append((len(answer), loss(ids_of(prompt), answer), loss(ids_of(OPENING), answer)))
        found = line.get("scores", [])
        assert [one["tokens"] for one in found] == [tokens for tokens, _, _ in wanted]
        for one, (tokens, with_prompt, without) in zip(found, wanted, strict=True):
            # fp32 sums in another order.
            assert one["loss_with_prompt"] == pytest.approx(with_prompt / tokens, abs=1e-5)
            assert one["loss_without_prompt"] == pytest.approx(without / tokens, abs=1e-5)
            assert one["sum_with_prompt"] == pytest.approx(with_prompt, abs=1e-5 * tokens)
            assert one["sum_without_prompt"] == pytest.approx(without, abs=1e-5 * tokens)
        worse = [with_prompt > without for _, with_prompt, without in wanted]
        assert ("unprompted_answer" in [one["name"] for one in line["findings"]]) == any(worse)
        answers, likelier = answers + len(wanted), likelier + sum(worse)
    sums = scored.summary["scores"]
    assert (sums["rows"], sums["answers"], sums["likelier_without_prompt"]) == (11, 12, likelier) == (11, answers, likelier)
    assert (sums["rows_with_prompt"], sums["rows_without_prompt"], sums["rows_too_long"], sums["stopped"]) == (11, 1, 0, False)
    assert 0 < likelier < answers  # a random model does either


def test_the_page_shows_the_differences_and_the_worst_rows(scored):
    assert 'id="scores"' in scored.page and "likelier without it" in scored.page
    assert 'id="unprompted_answer"' in scored.page and "loss_without_prompt: " in scored.page


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32),
                           LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False))
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("flags", [["--quantization", "nf4"], ["--adapter", "{adapter}"], ["--tokens-per-batch", "1"],
                                   ["--set", "quantization.bnb_4bit_compute_dtype=bfloat16"]], ids=lambda flags: flags[0])
def test_with_their_prompts_answers_have_the_loss_that_qlora_eval_tells(bin_dir, scored, tiny, adapter, flags):
    flags = [flag.format(adapter=adapter) for flag in flags]
    data = write_rows(scored.data.with_name("some.jsonl"), ROWS[:9])
    evaluated = json.loads(run(bin_dir, "qlora-eval", "--model", tiny, "--data", data, *flags).stdout)
    sums = score(bin_dir, tiny, data, *flags)[0]["scores"]
    assert sums["tokens"] == evaluated["supervised_tokens"]
    # bfloat16 rounds products of batches that are other ones.
    tolerance = 3e-3 if "bfloat16" in flags[-1] else 1e-5
    assert sums["loss_with_prompt"] == pytest.approx(evaluated["loss"], abs=tolerance)
    if flags[0] != "--tokens-per-batch":
        assert abs(sums["loss_with_prompt"] - score(bin_dir, tiny, data)[0]["scores"]["loss_with_prompt"]) > 1e-6


def test_some_rows_are_chosen_by_the_seed(bin_dir, scored, tiny):
    def chosen(*flags):
        summary, lines = score(bin_dir, tiny, scored.data, "--score-rows", 4, *flags)
        sums = summary["scores"]
        assert (sums["rows"], sums["rows_with_prompt"], len(lines)) == (4, 11, len(ROWS))
        return sums["seed"], {line["row"]: line["scores"] for line in lines if "scores" in line}

    seed, first = chosen()
    assert seed == 42 and chosen() == (seed, first)
    for row, scores in first.items():
        for ours, whole in zip(scores, scored.lines[row]["scores"], strict=True):
            assert ours["loss_without_prompt"] == pytest.approx(whole["loss_without_prompt"], abs=1e-5)
    assert len({tuple(chosen("--set", f"training.seed={other}")[1]) for other in (1, 2, 3)} | {tuple(first)}) > 1
    assert "seed" not in score(bin_dir, tiny, scored.data, "--score-rows", 11)[0]["scores"]
    # Rows held out of the training files go to the end of the list, and their scores with them.
    _, lines = score(bin_dir, tiny, scored.data, "--set", "data.eval=5")
    assert [line["part"] for line in lines].count("eval") == 5
    for line in lines:
        whole = scored.lines[line["row"]].get("scores", [])
        assert [one["sum_with_prompt"] for one in line.get("scores", [])] == pytest.approx(
            [one["sum_with_prompt"] for one in whole], abs=1e-4)


def test_rows_beyond_max_length_are_scored_as_a_run_would_train_them(bin_dir, scored, tiny):
    length = scored.lines[7]["tokens"] - 4  # the longest; it ends in the end token and a line end
    dropped, lines = score(bin_dir, tiny, scored.data, "--set", f"data.max_length={length}")
    assert dropped["scores"]["rows_too_long"] == dropped["findings"]["too_long"] >= 1 and "scores" not in lines[7]
    cut, lines = score(bin_dir, tiny, scored.data, "--set", f"data.max_length={length}", "--set", "data.overlong=truncate")
    assert cut["scores"]["rows_too_long"] == 0
    assert lines[7]["scores"][0]["tokens"] == scored.lines[7]["scores"][0]["tokens"] - 3


def test_shuffled_answers_are_found_and_true_ones_are_not(bin_dir, smollm2, tmp_path):
    def found(shift):
        rows = [pair(question, FACTS[(i + shift) % len(FACTS)][1]) for i, (question, _) in enumerate(FACTS)]
        return score(bin_dir, smollm2, write_rows(tmp_path / f"rows{shift}.jsonl", rows))[0]["findings"]["unprompted_answer"]

    true, shuffled = found(0), found(5)
    assert true <= 1 and shuffled >= 8  # of 12


def test_without_score_the_weights_are_not_read(bin_dir, scored, tiny, tmp_path):
    result = run(bin_dir, "qlora-data", "--model", tiny, "--data", scored.data, "--json", "--output", tmp_path / "out.jsonl")
    assert "scores" not in json.loads(result.stdout) and "unprompted_answer" not in result.stdout
    assert "scores" not in (tmp_path / "out.jsonl").read_text() and "base" not in result.stderr


def test_a_signal_ends_the_scoring_and_what_is_done_is_reported(bin_dir, scored, tiny, tmp_path):
    data = write_rows(tmp_path / "many.jsonl", [pair(f"What is {i}?", f"A number, {i}.") for i in range(3000)])
    process = subprocess.Popen([bin_dir / "qlora-data", "--model", tiny, "--data", data, "--score", "--tokens-per-batch", "1",
                                "--json", "--output", tmp_path / "out.jsonl"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("scoring, row"):
            process.send_signal(signal.SIGINT)
            break
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    sums = json.loads(stdout)["scores"]
    assert sums["stopped"] and 0 < sums["rows"] < 3000 == sums["rows_with_prompt"]
    assert f"stopped by a signal after {sums['rows']} of 3000 rows" in stderr
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert len(lines) == 3000 and sum('"scores"' in line for line in lines) == sums["rows"]


@pytest.mark.parametrize("flags,words", [
    (["--model", "{model}", "--score-rows", "3", "--device", "cpu", "--adapter", "x"],
     ["--score-rows: needs --score", "--device: needs --score", "--adapter: needs --score", "there is no x"]),
    (["--score"], ["--model: is needed"]),
    (["--config", "{bare}", "--score"], ["model.path"]),
    (["--model", "{model}", "--score", "--quantization", "int8"], ["--quantization", "nf4"]),
    (["--model", "{model}", "--score", "--quantization", "nf4", "--set", "quantization.load_in_4bit=false"], ["leave one out"]),
    (["--model", "{model}", "--score", "--device", "gpu"], ["model.device", "cuda:N"]),
    (["--model", "{model}", "--score", "--device", "cuda"], ["--device", "NVIDIA driver"]),
    (["--model", "{model}", "--score", "--adapter", "{model}"], ["adapter_config.json"]),
    (["--model", "{packed}", "--score", "--quantization", "none"], ["stored in 4 bits"]),
    (["--model", "{model}", "--score", "--score-rows", "0"], ["--score-rows"]),
    (["--model", "{model}", "--set", "quantization.load_in_4bit=false"], ["changes nothing about how rows are read"]),
])
def test_wrong_input_is_one_clear_sentence(bin_dir, scored, tiny, packed, tmp_path, flags, words):
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps({"data": {"train": str(scored.data)}, "training": {"output_dir": "out"}}))
    values = {"model": tiny, "packed": packed, "bare": bare}
    data = [] if "--config" in flags else ["--data", scored.data]
    output = tmp_path / "out.jsonl"
    result = run(bin_dir, "qlora-data", *[flag.format(**values) for flag in flags], *data, "--output", output, code=2)
    assert result.stdout == "" and not output.exists()
    for word in words:
        assert word in result.stderr
    assert "terminate" not in result.stderr and "frame #" not in result.stderr


@pytest.fixture(scope="module")
def packed(bin_dir, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "model"
    run(bin_dir, "qlora-quantize", "--model", tiny, "--output", folder)
    return folder


def test_a_4_bit_folder_scores_as_its_original_quantized(bin_dir, scored, tiny, packed):
    ours = score(bin_dir, packed, scored.data)[0]["scores"]
    original = score(bin_dir, tiny, scored.data, "--quantization", "nf4")[0]["scores"]
    assert ours == original and math.isfinite(ours["loss_without_prompt"])
