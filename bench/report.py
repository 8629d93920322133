"""The results as one page of Markdown."""

import statistics
import textwrap

from goals import main_entrant


def number(value, digits=1):
    return "-" if value is None else f"{value:.{digits}f}"


def gigabytes(value):
    return f"{value / 1e9:.2f}"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def spread(entrant, key):
    """Half the distance between the blocks, of their mean."""
    values = [block[key] for block in entrant["blocks"]]
    if len(values) < 2 or None in values:
        return ""
    return f" ±{(max(values) - min(values)) / 2 / statistics.mean(values):.1%}"


def evaluation_gap(entrant):
    parity = entrant["parity"]
    return f"{parity['first']:.1e}" + ("" if parity["holds"] else " **differs, does not count**")


def loss_cell(entrant):
    parity = entrant["parity"]
    if entrant["name"] == "ours":
        losses = entrant["blocks"][0]["losses"]
        return f"{losses[0]:.4f} to {losses[-1]:.4f}" + (
            "" if parity["holds"] else " **its blocks differ**"
        )
    verdict = "" if parity["holds"] else " **differs, does not count**"
    return f"{parity['first']:.1e}, {parity['largest']:.1e} ({parity['steps']}){verdict}"


def mean_rate(entrant):
    return statistics.mean(rate for block in entrant["blocks"] for rate in block["gemm_gflops"])


def training_table(cell):
    rows = []
    for e in cell["entrants"]:
        rate = number(e["useful_tokens_per_second"]) + spread(e, "useful_tokens_per_second")
        rows.append(
            (
                e["name"] + (" (noisy)" if e["noisy"] else ""),
                rate,
                number(e["supervised_tokens_per_second"]),
                number(e["padded_tokens_per_second"]),
                f"{e['share_of_limit']:.0%} of {mean_rate(e):.0f}",
                gigabytes(e["peak_rss"]),
                number(e["first_step_seconds"]),
                loss_cell(e),
            )
        )
    header = (
        "who",
        "useful tokens/s",
        "supervised tokens/s",
        "with padding",
        "share of GEMM rate, GFLOP/s",
        "peak RSS, GB",
        "start to end of step 1, s",
        "loss, or its relative difference: first, largest (steps)",
    )
    return table(header, rows)


def common_words(ours, theirs):
    """How much of two texts is equal, from the start."""
    if ours == theirs:
        return "the same"
    same = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs))
    )
    return f"the same for {same} characters"


def generation_table(cell):
    rows = []
    text = main_entrant(cell)["blocks"][0]["text"]
    for e in cell["entrants"]:
        rows.append(
            (
                e["name"] + (" (noisy)" if e["noisy"] else ""),
                number(e["first_token_seconds"], 2),
                number(e["load_quantize_seconds"], 2),
                number(e["tokens_per_second"]) + spread(e, "tokens_per_second"),
                number(e["generated_tokens"], 0),
                gigabytes(e["peak_rss"]),
                common_words(text, e["blocks"][0]["text"]),
            )
        )
    header = (
        "who",
        "start to first token, s",
        "load + quantize, s",
        "tokens/s",
        "tokens",
        "peak RSS, GB",
        "text",
    )
    return table(header, rows)


def evaluation_table(cell):
    rows = []
    for e in cell["entrants"]:
        rate = number(e["useful_tokens_per_second"]) + spread(e, "useful_tokens_per_second")
        rows.append(
            (
                e["name"] + (" (noisy)" if e["noisy"] else ""),
                rate,
                number(e["supervised_tokens_per_second"]),
                "-" if e["share_of_limit"] is None else f"{e['share_of_limit']:.0%}",
                number(e["evaluation_seconds"], 2),
                number(e["total_seconds"], 2),
                gigabytes(e["peak_rss"]),
                f"{e['loss']:.7f}",
                evaluation_gap(e),
            )
        )
    header = (
        "who",
        "useful tokens/s",
        "supervised tokens/s",
        "share of GEMM rate",
        "evaluation, s",
        "whole program, s",
        "peak RSS, GB",
        "loss",
        "relative difference",
    )
    return table(header, rows)


TABLES = {
    "training": training_table,
    "generation": generation_table,
    "evaluation": evaluation_table,
}


def goal_table(entries):
    rows = []
    for e in entries:
        verdict = "does not count" if e["rival"] else "not measured"
        if e["value"] is not None and e["goal"] == e["stretch"]:
            verdict = "yes" if e["reached"] else "**no**"
        elif e["value"] is not None:
            verdict = "stretch" if e["stretch_reached"] else "yes" if e["reached"] else "**no**"
        sign = "at most " if e["at_most"] else ""
        rows.append(
            (
                e["cell"],
                e["what"],
                e["rival"] or "-",
                number(e["value"], 2),
                f"{sign}{e['goal']}",
                f"{sign}{e['stretch']}",
                verdict,
            )
        )
    return table(("cell", "what", "measured against", "value", "goal", "stretch", "reached"), rows)


def wrapped(text):
    return textwrap.wrap(
        " ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False
    )


def markdown(results):
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(
        f"{name} {version}" for name, version in machine["versions"].items() if version
    )
    variables = [f"{name}={value}" for name, value in machine["kept_to"].items()]
    kept_to = f", kept to older instructions by {' '.join(variables)}" if variables else ""
    machine_text = f"""
        {machine['processor']}, {settings['threads']} threads of {machine['cores']} cores
        ({', '.join(machine['instruction_sets'])}{kept_to}), {machine['memory_bytes'] / 1e9:.0f} GB,
        {machine['system']}. Commit {machine['commit']}; peers: {versions}; jemalloc:
        {machine['jemalloc'] or 'not installed'}. Model {results['model']}; NF4 with double
        quantization, rank {settings['rank']}, alpha {settings['alpha']}, dropout 0, all seven
        linears, AdamW at {settings['learning_rate']}, fp32."""
    method_text = f"""
        Each entrant runs twice, in the order A-B-B-A; {settings['warm_up']} steps of a block are
        warm-up. All wait actively (OMP_WAIT_POLICY=active) but "ours, default waiting", which is
        what our programs do unless told: they sleep after some microseconds. The rate of fp32
        products in the model's own shapes is probed before and after each block; a block whose two
        rates differ by more than {settings['spread']:.0%} is repeated, twice at most, and called
        noisy then. Shares are of that rate, for the operations that the arithmetic needs with the
        rows' real lengths and supervised tokens, nothing recomputed. Useful tokens are those that
        are not padding, over the time of whole optimizer steps, data included. ± is half the
        distance between the two blocks."""
    parity_text = f"""
        A peer's losses are compared with ours in the same order of rows: the first within
        {settings['bounds']['first']:.0e}, all within {settings['bounds']['all']:.0e}, else the row
        does not count. Both start from one adapter file and one base: where bitsandbytes on a CPU
        does not round a scale to the nearest of its 8-bit codes, the nearest is put there. trl gets
        our token ids and labels. Grouped rows come longest first, as transformers sorts them."""
    baseline = gigabytes(results["baseline_rss"])
    lines = ["# Benchmark on the CPU", ""]
    lines += [*wrapped(machine_text), "", *wrapped(method_text), "", *wrapped(parity_text), ""]
    lines.append(f"Our program alone (LibTorch loaded, no model): peak RSS {baseline} GB.")
    if settings["quick"]:
        lines += [
            "",
            "**A quick try of a few steps: these figures say that it works, not how fast.**",
        ]
    for cell in results["cells"]:
        lines += ["", f"## {cell['cell']}: {cell['work']}", ""]
        lines += TABLES[cell["kind"]](cell) if cell["entrants"] else ["nobody ran"]
        if cell["skipped"]:
            lines += [
                "",
                *(f"- not run: {name}: {reason}" for name, reason in cell["skipped"].items()),
            ]
    lines += ["", "## What must hold", "", *goal_table(results["goals"]), ""]
    return "\n".join(lines)
