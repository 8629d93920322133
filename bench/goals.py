"""What must hold: the goals, and which of them the results reach."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Goal:
    cell: str
    what: str
    rivals: str  # the rivals' names begin so; "" is every peer
    value: str  # a key of an entrant's summary
    better: str  # "more" (rival's best is its largest) or "less"
    goal: float
    stretch: float


RATE = "useful_tokens_per_second"
# Ratios of ours to the best peer's; for times theirs to ours.
GOALS = (
    Goal("C1", "useful tokens/s against the best peer", "", RATE, "more", 1.4, 1.6),
    Goal("C2", "useful tokens/s against the best peer", "", RATE, "more", 1.4, 1.6),
    Goal("C3", "useful tokens/s against trl tuned", "trl, tuned", RATE, "more", 3.5, 4),
    Goal("C3", "useful tokens/s against trl default", "trl, default", RATE, "more", 6, 8),
    Goal("C3", "useful tokens/s against the plain loop", "plain", RATE, "more", 1.4, 1.8),
    Goal("C4", "useful tokens/s against the best peer", "", RATE, "more", 1.4, 1.6),
    Goal(
        "C1",
        "peak RSS as a share of the jemalloc loop's",
        "plain loop, jemalloc",
        "peak_rss",
        "share",
        0.6,
        0.5,
    ),
    Goal("C3", "peak RSS as a share of trl tuned's", "trl, tuned", "peak_rss", "share", 0.25, 0.2),
    Goal(
        "C3",
        "start to end of the first step, times sooner than trl",
        "trl",
        "first_step_seconds",
        "less",
        5,
        10,
    ),
    Goal("C5", "load + quantize, times faster", "", "load_quantize_seconds", "less", 5, 10),
    Goal("C5", "generation, tokens/s", "", "tokens_per_second", "more", 2, 4),
    Goal("C6", "evaluation, useful tokens/s", "", RATE, "more", 1.5, 2),
)
SHARES = {"C1": (0.80, 0.88), "C3": (0.75, 0.85)}  # of the products' rate
LARGE = "C7"
LARGE_GOALS = {"peak RSS, GB": 6, "share of the GEMM rate, of C1's": 0.75}


def main_entrant(cell):
    return next((e for e in cell["entrants"] if e["name"] == "ours"), None)


def ratio(goal, cell):
    """Ours to the best of the rivals whose losses are ours; None without one, and why."""
    ours = main_entrant(cell)
    measured = [
        e
        for e in cell["entrants"]
        if not e["ours"] and e["name"].startswith(goal.rivals) and e.get(goal.value)
    ]
    rivals = [e for e in measured if e.get("parity", {"holds": True})["holds"]]
    if not ours or not ours.get(goal.value) or not measured:
        return None, None
    if not rivals:
        return None, f"{measured[0]['name']}: its losses differ"
    best = (max if goal.better == "more" else min)(rivals, key=lambda e: e[goal.value])
    value = best[goal.value] / ours[goal.value]
    return (value if goal.better == "less" else 1 / value), best["name"]


def judged(cells):
    """Each goal with what was reached, for the report and the JSON."""
    found = []
    by_name = {cell["cell"]: cell for cell in cells}
    for goal in GOALS:
        if goal.cell in by_name:
            value, rival = ratio(goal, by_name[goal.cell])
            lower = goal.better == "share"
            found.append(
                {
                    "cell": goal.cell,
                    "what": goal.what,
                    "rival": rival,
                    "value": value,
                    "goal": goal.goal,
                    "stretch": goal.stretch,
                    "at_most": lower,
                }
            )
    for name, (goal, stretch) in SHARES.items():
        if name in by_name and main_entrant(by_name[name]):
            found.append(
                {
                    "cell": name,
                    "what": "share of the GEMM rate",
                    "rival": None,
                    "at_most": False,
                    "value": main_entrant(by_name[name])["share_of_limit"],
                    "goal": goal,
                    "stretch": stretch,
                }
            )
    found += large_goals(by_name)
    for entry in found:
        value = entry["value"]
        within = (lambda a, b: a <= b) if entry["at_most"] else (lambda a, b: a >= b)
        entry["reached"] = value is not None and within(value, entry["goal"])
        entry["stretch_reached"] = value is not None and within(value, entry["stretch"])
    return found


def large_goals(cells):
    """A larger model has no rivals: its memory, and its share against that of C1."""
    large = main_entrant(cells[LARGE]) if LARGE in cells else None
    if not large:
        return []
    small = main_entrant(cells["C1"]) if "C1" in cells else None
    values = (
        large["peak_rss"] / 1e9,
        large["share_of_limit"] / small["share_of_limit"] if small else None,
    )
    return [
        {
            "cell": LARGE,
            "what": what,
            "rival": None,
            "value": value,
            "goal": goal,
            "stretch": goal,
            "at_most": what.startswith("peak"),
        }
        for (what, goal), value in zip(LARGE_GOALS.items(), values)
    ]
