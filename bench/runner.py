"""Runs a cell: makes its rows, then each entrant in the order A-B-B-A.

The rate of matrix products is probed before and after each block of steps.
"""

import dataclasses
import json
import statistics
import sys
from pathlib import Path

import ours
from cells import LEARNING_RATE, NEW_TOKENS, RANK
from limits import ModelShape, evaluation_flops, read_shape, training_flops
from process import ProcessError, environment, run

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "scripts" / "gpu_check"))
import random_model  # noqa: E402

SPREAD = 0.10  # of the two rates around a block; above it the block is repeated
BOUNDS = {"first": 1e-5, "all": 1e-3}  # relative difference of losses
PEER_IMPORTS = {
    "plain_loop": "transformers, peft, bitsandbytes",
    "trl_sft": "transformers, peft, bitsandbytes, datasets, trl",
    "generate": "transformers, bitsandbytes",
    "evaluate": "transformers, bitsandbytes",
}


@dataclasses.dataclass
class Setup:
    """What is the same in all cells."""

    root: Path
    python: Path
    bin: Path
    model: Path
    shape: ModelShape
    template: str
    threads: int
    work: Path  # scratch folder
    adapter: Path
    nested_scales: Path
    jemalloc: Path | None
    skip_peers: bool
    only: list  # names of entrants; empty: all
    steps: int  # timed ones of a block
    warm_up: int
    parity_steps: int
    repeats: int  # of a block between unequal rates
    held_out: int
    longest: int = 4096
    importable: dict = dataclasses.field(
        default_factory=dict
    )  # peer's program -> why it cannot run, or None

    def peer_fault(self, program):
        """Why a peer's packages cannot be imported; None when they can, and its base is ready."""
        if program not in self.importable:
            self.importable[program] = import_fault(self, PEER_IMPORTS[program])
            if self.importable[program] is None and not self.nested_scales.exists():
                run_python(
                    self,
                    "peers/nested_scales.py",
                    "--model",
                    self.model,
                    "--output",
                    self.nested_scales,
                )
        return self.importable[program]


@dataclasses.dataclass
class Files:
    folder: Path
    rows: list = dataclasses.field(default_factory=list)

    @property
    def data(self):
        return self.folder / "data.jsonl"


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def run_python(setup, script, *arguments, env=None):
    command = [setup.python, HERE / script, *arguments]
    return run(command, env or environment(setup.threads, spins=False))


class CellRun:
    def __init__(self, cell, setup):
        self.files = Files(setup.work / cell.name)
        if cell.shape:
            setup = self.with_random_model(cell, setup)
        self.cell, self.setup = cell, setup
        self.orders = {}  # name -> rows of each step, as our first run in that order had them
        self.reference = {}  # name -> our losses in that order
        self.rate = None  # after the last block
        self.skipped = {}

    def with_random_model(self, cell, setup):
        """The setup with a model of the cell's own shape, and an adapter for it."""
        self.files.folder.mkdir(parents=True, exist_ok=True)
        model, adapter = self.files.folder / "model", self.files.folder / "adapter"
        random_model.write_model(model, cell.shape, "bfloat16")
        run_python(setup, "adapter.py", "--model", model, "--output", adapter)
        return dataclasses.replace(setup, model=model, adapter=adapter, shape=read_shape(model))

    def prepare(self):
        cell, setup = self.cell, self.setup
        count = {
            "training": cell.batch * self.longest_block(),
            "generation": 1,
            "evaluation": setup.held_out,
        }
        run_python(
            setup,
            "rows.py",
            "--model",
            setup.model,
            "--data",
            setup.root / "data",
            "--cell",
            cell.name,
            "--count",
            count[cell.kind],
            "--output",
            self.files.folder,
        )
        self.files.rows = json.loads((self.files.folder / "rows.json").read_text())["rows"]

    def longest_block(self):
        return max(self.setup.warm_up + self.setup.steps, self.setup.parity_steps)

    def block_steps(self, entrant, block):
        whole = entrant.whole_epoch or (block == 0 and not entrant.short)
        return self.longest_block() if whole else self.setup.warm_up + self.setup.steps

    def lengths(self, places):
        return [len(self.files.rows[i]["ids"]) for i in places]

    def supervised(self, places):
        return sum(sum(self.files.rows[i]["supervised"][1:]) for i in places)

    def probe(self):
        """GFLOP/s of the model's own products at the cell's number of rows."""
        everything = range(len(self.files.rows))
        training = self.cell.kind == "training"
        share = self.cell.batch / len(self.files.rows)
        rows = max(1, round(sum(self.lengths(everything)) * share))
        supervised = max(1, round(self.supervised(everything) * share))
        flags = [] if training else ["--forward-only"]
        finished = run_python(
            self.setup,
            "gemm_rate.py",
            "--model",
            self.setup.model,
            "--rows",
            rows,
            "--supervised",
            supervised,
            "--threads",
            self.setup.threads,
            *flags,
            env=environment(self.setup.threads, spins=True),
        )
        return json.loads(finished.stdout)

    # --- who runs, in which order ---

    def reason_to_skip(self, entrant):
        if self.setup.only and entrant.name not in self.setup.only and entrant.name != "ours":
            return "not asked for"
        if entrant.is_ours:
            return None
        if self.setup.skip_peers:
            return "peers were not asked for"
        if entrant.jemalloc and not self.setup.jemalloc:
            return "libjemalloc.so.2 is not installed (scripts/setup.sh --bench)"
        return self.setup.peer_fault(entrant.program)

    def gives_order(self, entrant):
        """Whether our run is needed for the order of a peer's rows."""
        if not entrant.is_ours or not entrant.spins:
            return False
        peers = [e for e in self.cell.entrants if not e.is_ours and e.order == entrant.order]
        return any(self.reason_to_skip(peer) is None for peer in peers)

    def schedule(self):
        """(entrant, block): all of them forward, then those with a second block backward."""
        present = []
        for entrant in self.cell.entrants:
            reason = self.reason_to_skip(entrant)
            if reason and self.gives_order(entrant):
                reason = None
            if reason:
                self.skipped[entrant.name] = reason
            else:
                present.append(entrant)
        return [(e, 0) for e in present] + [(e, 1) for e in reversed(present) if e.blocks == 2]

    def run(self):
        self.prepare()
        blocks = {}
        self.rate = self.probe()
        for entrant, block in self.schedule():
            if entrant.name in self.skipped:
                continue
            try:
                measured = self.steady_block(entrant, block)
            except ProcessError as fault:
                say(f"{self.cell.name} {entrant.name}: {fault}")
                if entrant.is_ours and entrant.spins:
                    raise
                self.skipped[entrant.name] = f"failed: {fault}"
                blocks.pop(entrant.name, None)
                continue
            blocks.setdefault(entrant.name, []).append(measured)
            say(f"{self.cell.name} {entrant.name}: {outline(measured)}")
        rows = [self.summary(e, blocks[e.name]) for e in self.cell.entrants if e.name in blocks]
        return {
            "cell": self.cell.name,
            "work": self.cell.work,
            "kind": self.cell.kind,
            "rows": len(self.files.rows),
            "entrants": rows,
            "skipped": self.skipped,
        }

    def steady_block(self, entrant, block):
        """A block between two probes; repeated while these differ too much."""
        for attempt in range(1 + self.setup.repeats):
            before = self.rate
            measured = self.one_block(entrant, self.block_steps(entrant, block))
            self.rate = self.probe()
            rates = [before["gflops"], self.rate["gflops"]]
            measured["gemm_gflops"] = rates
            measured["repeats"] = attempt
            measured["noisy"] = max(rates) / min(rates) - 1 > SPREAD
            if not measured["noisy"]:
                break
            say(
                f"{self.cell.name} {entrant.name}: rates around the block"
                f" {rates[0]:.0f} and {rates[1]:.0f} GFLOP/s"
            )
        measured["share_of_limit"] = self.share(measured)
        return measured

    # --- one block ---

    def one_block(self, entrant, steps):
        jemalloc = self.setup.jemalloc if entrant.jemalloc else None
        env = environment(self.setup.threads, entrant.spins, jemalloc)
        if entrant.is_ours:
            finished, result = self.ours(entrant, env, steps)
        else:
            finished, result = self.peer(entrant, env, steps)
        measured = {
            "peak_rss": finished.peak_rss,
            "load_quantize_seconds": result["load_quantize_seconds"],
        }
        finish = {
            "training": self.training_block,
            "generation": self.generation_block,
            "evaluation": self.evaluation_block,
        }[self.cell.kind]
        return measured | finish(entrant, finished, result)

    def ours(self, entrant, env, steps):
        if self.cell.kind == "generation":
            return ours.generate(self.setup, self.files, env)
        if self.cell.kind == "evaluation":
            return ours.evaluate(self.setup, self.files, env)
        finished, result = ours.train(self.cell, self.setup, self.files, entrant, env, steps)
        if len(result["steps"]) > len(self.orders.get(entrant.order, [])):
            self.orders[entrant.order] = result["steps"]
            self.reference[entrant.order] = result["losses"]
        return finished, {"load_quantize_seconds": None, **result}

    def peer(self, entrant, env, steps):
        output = self.files.folder / "peer.json"
        job = {
            "model": str(self.setup.model),
            "rows": str(self.files.folder / "rows.json"),
            "output": str(output),
            "threads": self.setup.threads,
            "mode": entrant.mode,
            "adapter": str(self.setup.adapter),
            "nested_scales": str(self.setup.nested_scales),
            "steps": self.orders.get(entrant.order, [])[:steps],
            "learning_rate": LEARNING_RATE,
            "batch": self.cell.batch,
            "new_tokens": NEW_TOKENS,
        }
        job_file = self.files.folder / "job.json"
        job_file.write_text(json.dumps(job))
        output.unlink(missing_ok=True)
        finished = run([self.setup.python, HERE / "peers" / f"{entrant.program}.py", job_file], env)
        result = json.loads(output.read_text())
        if result["allocator"] != ("jemalloc" if entrant.jemalloc else "glibc"):
            raise ProcessError(f"the allocator was {result['allocator']}")
        if "ends" in result:
            begins = [result["begin"], *result["ends"][:-1]]
            result["step_seconds"] = [end - begin for begin, end in zip(begins, result["ends"])]
            result["first_step_end"] = result["ends"][0]
        return finished, result

    def training_block(self, entrant, finished, result):
        steps = self.orders[entrant.order][: len(result["losses"])]
        timed = steps[self.setup.warm_up :]
        seconds = result["step_seconds"][self.setup.warm_up :]
        tokens = sum(sum(self.lengths(step)) for step in timed)
        flops = sum(
            training_flops(self.setup.shape, RANK, self.lengths(step), self.supervised(step))
            for step in timed
        )
        gaps = [
            abs(a - b) / abs(b) for a, b in zip(self.reference[entrant.order], result["losses"])
        ]
        measured = {
            "useful_tokens_per_second": tokens / sum(seconds),
            "supervised_tokens_per_second": sum(self.supervised(step) for step in timed)
            / sum(seconds),
            "padded_tokens_per_second": self.computed_tokens(entrant, timed) / sum(seconds),
            "gflops": flops / sum(seconds) / 1e9,
            "flops_per_token": flops / tokens,
            "timed_steps": len(timed),
            "timed_tokens": tokens,
            "median_step_seconds": statistics.median(seconds),
            "step_seconds": result["step_seconds"],
            "first_step_seconds": result["first_step_end"] - finished.began,
            "losses": result["losses"],
            "loss_gaps": gaps,
        }
        for key in ("observed_seconds", "adapter_dtypes", "checkpointing", "optimizer"):
            if key in result:
                measured[key] = result[key]
        return measured

    def computed_tokens(self, entrant, steps):
        """Padding included; ours has none."""
        if entrant.is_ours:
            return sum(sum(self.lengths(step)) for step in steps)
        return sum(len(step) * max(self.lengths(step)) for step in steps)

    def generation_block(self, entrant, finished, result):
        if entrant.is_ours:
            # The text leaves out a final end token: count what the tokenizer makes of it.
            counted = run_python(
                self.setup,
                "rows.py",
                "--model",
                self.setup.model,
                "--count-tokens",
                self.files.folder / "generated.jsonl",
            )
            tokens = min(int(counted.stdout), 1 + NEW_TOKENS) - 1
            seconds = result["generation_seconds"]
            first = result["first_token_seconds"]
        else:
            tokens, seconds = result["tokens"] - 1, result["last_token"] - result["first_token"]
            first = result["first_token"] - finished.began
        return {
            "first_token_seconds": first,
            "generated_tokens": tokens,
            "tokens_per_second": tokens / seconds if tokens > 0 and seconds else None,
            "text": result["text"],
        }

    def evaluation_block(self, entrant, finished, result):
        everything = range(len(self.files.rows))
        lengths, supervised = self.lengths(everything), self.supervised(everything)
        seconds = result["evaluation_seconds"]

        def rate(amount):
            return amount / seconds if seconds else None

        reference = self.reference.setdefault("evaluation", result["loss"])
        return {
            "loss": result["loss"],
            "loss_gaps": [abs(result["loss"] - reference) / reference],
            "useful_tokens_per_second": rate(sum(lengths)),
            "supervised_tokens_per_second": rate(supervised),
            "gflops": rate(evaluation_flops(self.setup.shape, lengths, supervised) / 1e9),
            "evaluation_seconds": seconds,
            "total_seconds": finished.seconds,
        }

    @staticmethod
    def share(measured):
        if measured.get("gflops") is None:
            return None
        return measured["gflops"] / statistics.mean(measured["gemm_gflops"])

    # --- an entrant's blocks together ---

    def summary(self, entrant, blocks):
        mean = {}
        for key, value in blocks[0].items():
            if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
                values = [block[key] for block in blocks]
                mean[key] = None if None in values else statistics.mean(values)
        mean["peak_rss"] = max(block["peak_rss"] for block in blocks)
        mean |= {
            "name": entrant.name,
            "ours": entrant.is_ours,
            "waits": "active" if entrant.spins else "the program's default",
            "order": entrant.order,
            "noisy": any(block["noisy"] for block in blocks),
            "blocks": blocks,
        }
        if "loss_gaps" in blocks[0]:
            mean["parity"] = parity(blocks)
        return mean


def parity(blocks):
    """The losses against those of our first run in the same order of rows; all blocks together."""
    first = max(block["loss_gaps"][0] for block in blocks)
    largest = max(max(block["loss_gaps"]) for block in blocks)
    return {
        "first": first,
        "largest": largest,
        "steps": max(len(block["loss_gaps"]) for block in blocks),
        "holds": first <= BOUNDS["first"] and largest <= BOUNDS["all"],
    }


def import_fault(setup, names):
    try:
        run([setup.python, "-c", f"import {names}"], environment(setup.threads, spins=False))
    except ProcessError as fault:
        return f"cannot be imported: {fault}"
    return None


def outline(measured):
    parts = [f"{measured['peak_rss'] / 1e9:.2f} GB"]
    if measured.get("useful_tokens_per_second"):
        parts.insert(0, f"{measured['useful_tokens_per_second']:.1f} useful tokens/s")
    if measured.get("tokens_per_second"):
        parts.insert(0, f"{measured['tokens_per_second']:.1f} tokens/s")
    if "first_step_seconds" in measured:
        parts.append(f"first step after {measured['first_step_seconds']:.1f} s")
    if "first_token_seconds" in measured:
        parts.append(f"first token after {measured['first_token_seconds']:.1f} s")
    if measured.get("share_of_limit"):
        parts.append(
            f"{measured['share_of_limit']:.0%} of"
            f" {statistics.mean(measured['gemm_gflops']):.0f} GFLOP/s"
        )
    return ", ".join(parts)
