"""The benchmark's cells and who runs in each of them."""

import dataclasses

RANK, ALPHA, LEARNING_RATE = 16, 32, 2e-4
PROMPT = (
    {"role": "system", "content": "You write stories."},
    {"role": "user", "content": "Write a long story about a lighthouse keeper and the sea."},
)
NEW_TOKENS = 128  # generated after the first one


@dataclasses.dataclass(frozen=True)
class Entrant:
    """One way to run a cell."""

    name: str
    program: str  # "ours", or a file of bench/peers without its ending
    mode: str = ""  # what the program knows to do differently: words
    order: str = "shuffled"  # of the rows; "grouped" by length, as ours with data.group_by_length
    spins: bool = True  # OMP_WAIT_POLICY=active; else the program's own default
    jemalloc: bool = False
    blocks: int = 2
    whole_epoch: bool = (
        False  # every block runs all rows: a grouped epoch's first batches are its longest
    )
    short: bool = False  # no block is lengthened for the comparison of losses

    @property
    def is_ours(self):
        return self.program == "ours"


@dataclasses.dataclass(frozen=True)
class Cell:
    name: str
    work: str
    kind: str  # "training", "generation" or "evaluation"
    data: str  # which rows: see rows.py
    entrants: tuple
    batch: int = 1
    tokens: int = 0  # of each text row
    supervised: int = 0
    template: str | None = None  # None: the model's own
    shape: str | None = None  # random weights of this shape (scripts/gpu_check/random_model.py)
    packed: bool = False  # weights stay in 4 bits


OURS = Entrant("ours", "ours")
OURS_SHORT = Entrant("ours", "ours", short=True)
OURS_PASSIVE = Entrant("ours, default waiting", "ours", spins=False)
OURS_GROUPED = Entrant("ours, length-grouped", "ours", order="grouped", blocks=1, whole_epoch=True)
LOOP = Entrant("plain loop", "plain_loop")
LOOP_JEMALLOC = Entrant("plain loop, jemalloc", "plain_loop", jemalloc=True)
LOOP_GROUPED = Entrant(
    "plain loop, jemalloc, length-grouped",
    "plain_loop",
    order="grouped",
    jemalloc=True,
    whole_epoch=True,
)
TRL = Entrant("trl, default", "trl_sft", mode="default", short=True)
TRL_TUNED = Entrant(
    "trl, tuned, jemalloc",
    "trl_sft",
    mode="tuned",
    order="grouped",
    jemalloc=True,
    whole_epoch=True,
)
TRL_FLOAT = Entrant(
    "trl, tuned, jemalloc, fp32 adapters",
    "trl_sft",
    mode="tuned-fp32",
    order="grouped",
    jemalloc=True,
    whole_epoch=True,
)
GENERATE = Entrant("transformers", "generate")
GENERATE_JEMALLOC = Entrant("transformers, jemalloc", "generate", jemalloc=True)
# Outside training bitsandbytes multiplies in bf16 where the processor can; "fp32" forbids it.
GENERATE_FLOAT = Entrant(
    "transformers, jemalloc, fp32 products", "generate", mode="fp32", jemalloc=True
)
EVALUATE = Entrant("transformers", "evaluate")
EVALUATE_SORTED = Entrant(
    "transformers, jemalloc, rows by length", "evaluate", mode="sorted", jemalloc=True
)
EVALUATE_FLOAT = Entrant(
    "transformers, jemalloc, rows by length, fp32 products",
    "evaluate",
    mode="sorted fp32",
    jemalloc=True,
)

CELLS = {
    cell.name: cell
    for cell in (
        Cell(
            "C1",
            "4 x 256 equal lengths, loss on all rows",
            "training",
            "text",
            (OURS, OURS_PASSIVE, LOOP, LOOP_JEMALLOC),
            batch=4,
            tokens=256,
            supervised=256,
            template="none",
        ),
        Cell(
            "C2",
            "2 x 512, loss on the last half",
            "training",
            "text",
            (OURS, OURS_PASSIVE, LOOP, LOOP_JEMALLOC),
            batch=2,
            tokens=512,
            supervised=256,
            template="none",
        ),
        Cell(
            "C3",
            "ragged instruction data of 60 to 500 tokens, batch 8, loss on answers",
            "training",
            "chat",
            (OURS, OURS_PASSIVE, OURS_GROUPED, LOOP_GROUPED, TRL_FLOAT, TRL_TUNED, TRL),
            batch=8,
        ),
        Cell(
            "C4",
            "one sequence of 2048",
            "training",
            "text",
            (OURS, OURS_PASSIVE, LOOP_JEMALLOC),
            batch=1,
            tokens=2048,
            supervised=2048,
            template="none",
        ),
        Cell(
            "C5",
            "load, quantize, first token; 128 more tokens, greedily",
            "generation",
            "prompt",
            (OURS, OURS_PASSIVE, GENERATE, GENERATE_JEMALLOC, GENERATE_FLOAT),
        ),
        Cell(
            "C6",
            "loss over 300 held-out rows",
            "evaluation",
            "held_out",
            (OURS, OURS_PASSIVE, EVALUATE, EVALUATE_SORTED, EVALUATE_FLOAT),
            batch=8,
        ),
        Cell(
            "C7",
            "one sequence of 512, Llama-3.2-1B's shape with random weights, kept in 4 bits",
            "training",
            "text",
            (OURS_SHORT,),
            tokens=512,
            supervised=512,
            template="none",
            shape="Llama-3.2-1B",
            packed=True,
        ),
    )
}
