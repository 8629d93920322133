"""Runs a cell: makes its rows, then each entrant in the order A-B-B-A.

The rate of matrix products is probed before and after each block of steps.
"""

import dataclasses
import json
import sys
from pathlib import Path

import ours
from cells import LEARNING_RATE, NEW_TOKENS
from figures import Figures, outline, share, summary
from limits import ModelShape, read_shape
from process import ProcessError, environment, run

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "scripts" / "gpu_check"))
import random_model  # noqa: E402

SPREAD = 0.10  # of the two rates around a block; above it the block is repeated
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
        self.figures = Figures(setup, self.files.rows)

    def longest_block(self):
        return max(self.setup.warm_up + self.setup.steps, self.setup.parity_steps)

    def block_steps(self, entrant, block):
        whole = entrant.whole_epoch or (block == 0 and not entrant.short)
        return self.longest_block() if whole else self.setup.warm_up + self.setup.steps

    def probe(self):
        """GFLOP/s of the model's own products at the cell's number of rows."""
        everything = range(len(self.files.rows))
        training = self.cell.kind == "training"
        part = self.cell.batch / len(self.files.rows)
        rows = max(1, round(sum(self.figures.lengths(everything)) * part))
        supervised = max(1, round(self.figures.supervised(everything) * part))
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
        rows = [summary(e, blocks[e.name]) for e in self.cell.entrants if e.name in blocks]
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
        measured["share_of_limit"] = share(measured)
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
        if self.cell.kind == "training":
            order = self.orders[entrant.order]
            return measured | self.figures.training(entrant, finished, result, order)
        if self.cell.kind == "generation":
            return measured | self.figures.generation(result)
        return measured | self.figures.evaluation(finished, result)

    def ours(self, entrant, env, steps):
        if self.cell.kind == "generation":
            finished, result = ours.generate(self.setup, self.files, env)
            return finished, {**result, "tokens": self.generated_tokens()}
        if self.cell.kind == "evaluation":
            return ours.evaluate(self.setup, self.files, env)
        finished, result = ours.train(self.cell, self.setup, self.files, entrant, env, steps)
        if len(result["steps"]) > len(self.orders.get(entrant.order, [])):
            self.orders[entrant.order] = result["steps"]
            self.figures.reference[entrant.order] = result["losses"]
        return finished, {"load_quantize_seconds": None, **result}

    def generated_tokens(self):
        """The text leaves out a final end token: count what the tokenizer makes of it."""
        file = self.files.folder / "generated.jsonl"
        flags = ("--model", self.setup.model, "--count-tokens", file)
        counted = run_python(self.setup, "rows.py", *flags)
        return min(int(counted.stdout), 1 + NEW_TOKENS)

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
        if self.cell.kind == "generation":
            result["generation_seconds"] = result["last_token"] - result["first_token"]
            result["first_token_seconds"] = result["first_token"] - finished.began
        if "ends" in result:
            begins = [result["begin"], *result["ends"][:-1]]
            result["step_seconds"] = [end - begin for begin, end in zip(begins, result["ends"])]
            result["first_step_end"] = result["ends"][0]
        return finished, result

def import_fault(setup, names):
    try:
        run([setup.python, "-c", f"import {names}"], environment(setup.threads, spins=False))
    except ProcessError as fault:
        return f"cannot be imported: {fault}"
    return None
