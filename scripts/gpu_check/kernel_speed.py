"""Bytes per second of each kernel against the card's copy rate, and bitsandbytes' dequantize beside ours."""

import json
import os
import sys
from pathlib import Path

from process import ProcessError, run
from results import FAILED, MEASURED, SKIPPED

PART = "kernel speed"
PEER = Path(__file__).resolve().with_name("peer_dequantize.py")


def parse_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def peer_rates(shapes, limit):
    """({shape: GB/s} of bitsandbytes, None), or ({}, why not)."""
    try:
        finished = run([sys.executable, "-B", PEER, *shapes], os.environ, limit=limit)
    except ProcessError as error:
        return {}, str(error)
    return {line["shape"]: line["gb_per_s"] for line in parse_lines(finished.stdout)}, None


def measure_kernels(place, results):
    if place.bench is None:
        results.add(PART, "kernels", SKIPPED, "; ".join(place.notes) or "no cuda_kernels_bench here")
        return
    if not results.has_time(PART, "kernels", 40):
        return
    try:
        lines = parse_lines(run([place.bench], os.environ, limit=results.limit(90)).stdout)
    except ProcessError as error:
        results.add(PART, "kernels", FAILED, str(error))
        return
    ours = [line for line in lines if line["kernel"] == "dequantize_blockwise_nf4"]
    peers, fault = peer_rates([line["shape"] for line in ours], results.limit(60))
    for line in lines:
        add_row(results, line, peers)
    if fault:
        results.add(PART, "bitsandbytes dequantize", SKIPPED, fault)


def add_row(results, line, peers):
    text = f"{line['gb_per_s']:.0f} GB/s"
    figures = dict(line)
    if line["kernel"] != "copy":
        text += f", {line['share_of_copy']:.0%} of the copy rate, {line['microseconds']:.0f} us"
    theirs = peers.get(line["shape"]) if line["kernel"] == "dequantize_blockwise_nf4" else None
    if theirs:
        figures["bitsandbytes_gb_per_s"] = theirs
        text += f"; bitsandbytes {theirs:.0f} GB/s, ours {line['gb_per_s'] / theirs:.2f} times that"
    results.add(PART, f"{line['kernel']} {line['shape']}", MEASURED, text, **figures)
