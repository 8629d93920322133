"""Tokens per second, share of the card's own GEMM rate and peak memory for models of known shapes, ours and
the peers', from the same files.
"""

import json
import os
import shutil
import statistics
import sys
from pathlib import Path

from gpu import MemoryWatch
from limits import read_shape, training_flops
from process import ProcessError, run
from random_model import row_ids, text_rows, write_model, write_rows
from results import FAILED, MEASURED, SKIPPED
from trainer import planned_bytes, read_metrics, run_config, train

PART = "training speed"
HERE = Path(__file__).resolve().parent
MODELS = ("Qwen3-0.6B", "Llama-3.2-1B", "Llama-3.1-8B")
ROWS, TOKENS, RANK = 2, 2048, 16
WARM_UP, STEPS = 3, 10


def gemm_peak(results):
    """TFLOP/s, or None."""
    name = "bf16 products of 8192"
    try:
        finished = run([sys.executable, "-B", HERE / "gemm_peak.py"], os.environ, limit=results.limit(60))
    except ProcessError as error:
        results.add(PART, name, SKIPPED, str(error))
        return None
    figures = json.loads(finished.stdout)
    results.add(PART, name, MEASURED, f"{figures['tflops']:.0f} TFLOP/s", **figures)
    return figures["tflops"]


def rates(shape, step_seconds, peak):
    """Figures of the steps after the warm-up."""
    seconds = statistics.median(step_seconds[WARM_UP:])
    flops = training_flops(shape, RANK, [TOKENS] * ROWS, ROWS * (TOKENS - 1))
    figures = {"tokens_per_second": ROWS * TOKENS / seconds, "tflops": flops / seconds / 1e12}
    if peak:
        figures["share_of_gemm"] = figures["tflops"] / peak
    return figures


def gigabytes(size):
    return "unknown" if size is None else f"{size / 1e9:.2f} GB"


def text_of(figures):
    parts = [f"{figures['tokens_per_second']:.0f} tokens/s"]
    if "share_of_gemm" in figures:
        parts.append(f"{figures['share_of_gemm']:.0%} of the GEMM rate")
    memory = f"peak {gigabytes(figures.get('peak_bytes'))}"
    if "planned_bytes" in figures:
        memory += f" (planned {gigabytes(figures['planned_bytes'])})"
    return ", ".join([*parts, memory])


class ModelRun:
    """One model's folder and rows; ours, then the peers on the same rows in the same order."""

    def __init__(self, name, work, results, peak):
        self.name, self.results, self.peak = name, results, peak
        self.folder = work / name
        self.rows = text_rows(ROWS * (WARM_UP + STEPS), TOKENS)
        self.steps, self.first_loss, self.speed = [], None, None

    def prepare(self):
        write_model(self.folder / "model", self.name, "nf4")
        write_rows(self.rows, self.folder / "rows.jsonl")
        self.shape = read_shape(self.folder / "model")

    def ours(self, programs):
        config = run_config(
            self.folder / "model",
            self.folder / "rows.jsonl",
            self.folder / "out",
            "cuda",
            "bfloat16",
            max_steps=WARM_UP + STEPS,
            gradient_checkpointing="auto",
        )
        with MemoryWatch() as watch:
            log = train(programs, config, self.results.limit(120))
        lines = read_metrics(self.folder / "out")
        if lines[-1]["tokens"] != len(lines) * ROWS * TOKENS:
            raise ProcessError(f"{lines[-1]['tokens']} tokens in {len(lines)} steps")
        figures = rates(self.shape, [line["step_time"] for line in lines], self.peak)
        figures |= {"peak_bytes": watch.peak, "planned_bytes": planned_bytes(log)}
        figures |= {"reported_bytes": lines[-1].get("memory_bytes"), "losses": [x["loss"] for x in lines]}
        self.steps, self.first_loss = [line["rows"] for line in lines], lines[0]["loss"]
        self.speed = figures["tokens_per_second"]
        return figures, text_of(figures)

    def peers(self):
        output = self.folder / "peer.json"
        job = {
            "model": str(self.folder / "model"),
            "rows": [row_ids(row) for row in self.rows],
            "steps": self.steps or [[ROWS * i + j for j in range(ROWS)] for i in range(WARM_UP + STEPS)],
            "output": str(output),
        }
        (self.folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        with MemoryWatch() as watch:
            command = [sys.executable, "-B", HERE / "peer_training.py", self.folder / "job.json"]
            run(command, environment, limit=self.results.limit(120))
        result = json.loads(output.read_text(encoding="utf-8"))
        figures = rates(self.shape, result["step_seconds"], self.peak)
        figures |= {"peak_bytes": watch.peak, **result}
        text = text_of(figures) + (", checkpointing" if result["checkpointing"] else "")
        if self.speed:
            text += f"; ours {self.speed / figures['tokens_per_second']:.2f} times that"
        if self.first_loss:
            gap = abs(result["losses"][0] - self.first_loss) / abs(self.first_loss)
            figures["first_loss_gap"] = gap
            text += f", first loss differs by {gap:.1e}"
        return figures, text

    def measured(self, who, body):
        try:
            figures, text = body()
        except (ProcessError, OSError) as error:
            fault = SKIPPED if "No module named" in str(error) or "took longer" in str(error) else FAILED
            self.results.add(PART, f"{self.name}, {who}", fault, str(error))
            return
        self.results.add(PART, f"{self.name}, {who}", MEASURED, text, **figures)


def measure_training(place, results, work, models=MODELS):
    peak = gemm_peak(results)
    for name in models:
        if not results.has_time(PART, name, 45):
            continue
        run_of = ModelRun(name, work, results, peak)
        try:
            run_of.prepare()
            if place.programs is None:
                results.add(PART, f"{name}, ours", SKIPPED, "; ".join(place.notes))
            else:
                run_of.measured("ours", lambda: run_of.ours(place.programs))
            who = "transformers + peft + bitsandbytes"
            if results.has_time(PART, f"{name}, {who}", 45):
                run_of.measured(who, run_of.peers)
        except OSError as error:
            results.add(PART, name, SKIPPED, f"the model could not be written: {error}")
        finally:
            shutil.rmtree(run_of.folder, ignore_errors=True)
