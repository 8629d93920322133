"""What the times, counts and losses that an entrant left come to."""

import statistics

from cells import RANK
from limits import evaluation_flops, training_flops

BOUNDS = {"first": 1e-5, "all": 1e-3}  # relative difference of losses


class Figures:
    """Of one block: its rates in tokens and operations, and how far its losses are from ours."""

    def __init__(self, setup, rows):
        self.setup, self.rows = setup, rows
        self.reference = {}  # name of an order of rows -> our losses in it

    def lengths(self, places):
        return [len(self.rows[i]["ids"]) for i in places]

    def supervised(self, places):
        return sum(sum(self.rows[i]["supervised"][1:]) for i in places)

    def training(self, entrant, finished, result, order):
        """`order`: the rows of each step."""
        steps = order[: len(result["losses"])]
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

    def generation(self, result):
        # The first token ends the start, and is not counted.
        tokens, seconds = result["tokens"] - 1, result["generation_seconds"]
        return {
            "first_token_seconds": result["first_token_seconds"],
            "generated_tokens": tokens,
            "tokens_per_second": tokens / seconds if tokens > 0 and seconds else None,
            "text": result["text"],
        }

    def evaluation(self, finished, result):
        everything = range(len(self.rows))
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


def share(measured):
    if measured.get("gflops") is None:
        return None
    return measured["gflops"] / statistics.mean(measured["gemm_gflops"])


def summary(entrant, blocks):
    """An entrant's blocks together."""
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
