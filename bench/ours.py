"""Runs this project's programs as a user does and measures them from outside."""

import json
import shutil

from cells import LEARNING_RATE, NEW_TOKENS
from process import ProcessError, run

SMALLEST_DIFFERENCE = 0.05  # seconds


def read_lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def run_config(cell, setup, files, grouped, steps, output):
    data = {
        "train": str(files.data),
        "max_length": setup.longest,
        "group_by_length": grouped,
        "template": cell.template or setup.template,
    }
    return {
        "model": {
            "path": str(setup.model),
            "device": "cpu",
            "adapter": str(setup.adapter),
            "threads": setup.threads,
        },
        "quantization": {"bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "float32"},
        "data": data,
        "training": {
            "output_dir": str(output),
            "max_steps": steps,
            "per_device_train_batch_size": cell.batch,
            "gradient_accumulation_steps": 1,
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "log_rows": True,
            "cache_dequantized": False if cell.packed else "auto",
        },
    }


def train(cell, setup, files, entrant, env, steps):
    """One training run; the result has the form of the peers', and the order of the rows."""
    folder = files.folder / "ours"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = run_config(cell, setup, files, entrant.order == "grouped", steps, folder / "out")
    (folder / "run.json").write_text(json.dumps(config, indent=2))
    metrics = folder / "out" / "metrics.jsonl"
    command = [setup.bin / "qlora-train", "--config", folder / "run.json", "--quiet"]
    finished = run(command, env, watched=metrics)
    lines = [line for line in read_lines(metrics) if "loss" in line]
    if len(lines) != steps:
        raise ProcessError(f"{len(lines)} steps were logged, {steps} wanted")
    check_tokens(lines, files.rows)
    seen = finished.line_times
    return finished, {
        "losses": [line["loss"] for line in lines],
        "step_seconds": [line["step_time"] for line in lines],
        # The same steps by the clock of an onlooker, who sees each line up to 20 ms late.
        "observed_seconds": seen[-1] - seen[0],
        "first_step_end": seen[0],
        "steps": [line["rows"] for line in lines],
    }


def check_tokens(lines, rows):
    """Both sides must count the same tokens: `rows` are the ids that the peers get."""
    tokens = supervised = 0
    for line in lines:
        tokens += sum(len(rows[i]["ids"]) for i in line["rows"])
        supervised += sum(sum(rows[i]["supervised"][1:]) for i in line["rows"])
        if (line["tokens"], line["supervised_tokens"]) != (tokens, supervised):
            raise ProcessError(
                f"step {line['step']}: qlora-train counts {line['tokens']} tokens,"
                f" {line['supervised_tokens']} of them supervised; the peers' rows have {tokens}"
                f" and {supervised}"
            )


def loading_began(finished):
    """qlora-eval says what it will load just before it does."""
    times = [time for time, line in finished.log if "base quantized to NF4" in line]
    if not times:
        raise ProcessError("qlora-eval did not log the line after which it loads the model")
    return times[0]


def evaluate_command(setup, files, *flags):
    command = [
        setup.bin / "qlora-eval",
        "--model",
        setup.model,
        "--quantization",
        "nf4",
        "--data",
        files.data,
    ]
    return [*command, "--template", setup.template, *flags]


def seconds_more(longer, shorter):
    """What one run took longer than another; None when that is lost in their noise."""
    seconds = longer.seconds - shorter.seconds
    return seconds if seconds >= SMALLEST_DIFFERENCE else None


def generate(setup, files, env):
    """Two runs, of one token and of NEW_TOKENS more; the difference is the time of those.

    Load and quantization are bounded from above: from the line before them to the end of the run
    of one token.
    """
    flags = ("--generate", "--generations", files.folder / "generated.jsonl", "--max-new-tokens")
    first = run(evaluate_command(setup, files, *flags, 1), env)
    whole = run(evaluate_command(setup, files, *flags, 1 + NEW_TOKENS), env)
    return whole, {
        "first_token_seconds": first.seconds,
        "load_quantize_seconds": first.began + first.seconds - loading_began(first),
        "generation_seconds": seconds_more(whole, first),
        "text": read_lines(files.folder / "generated.jsonl")[0]["generated"],
    }


def evaluate(setup, files, env):
    """A run over all rows and one over the first: loading is in both, the rest is evaluation."""
    one = run(evaluate_command(setup, files, "--limit", 1), env)
    whole = run(evaluate_command(setup, files), env)
    summary = json.loads(whole.stdout)
    supervised = sum(sum(row["supervised"][1:]) for row in files.rows)
    if (summary["rows"], summary["supervised_tokens"]) != (len(files.rows), supervised):
        raise ProcessError(
            f"qlora-eval counts {summary}, the peers' rows have {supervised} supervised tokens"
        )
    return whole, {
        "loss": summary["loss"],
        "evaluation_seconds": seconds_more(whole, one),
        "load_quantize_seconds": one.began + one.seconds - loading_began(one),
        "total_seconds": whole.seconds,
    }
