"""Quantizing while loading takes no more anonymous memory than promised: mapped pages do not count, copies do."""

import json
import subprocess


def test_loading_stays_within_the_promise(bin_dir, smollm2):
    run = subprocess.run([bin_dir / "load_memory", smollm2], capture_output=True, text=True, check=True)
    figures = json.loads(run.stdout)
    print({name: f"{value / 1e6:.1f} MB" for name, value in figures.items()})
    assert figures["peak"] <= figures["promise"]
    # The model itself is all that stays (an eighth for the allocator's own pieces).
    assert figures["after"] - figures["baseline"] <= figures["model"] * 1.125
