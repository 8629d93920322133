#!/usr/bin/env bash
# From a fresh clone to a fine-tuned, measured and merged model: installs, builds, fetches SmolLM2-135M-Instruct,
# trains NF4 QLoRA on the WordNet set in data/, and shows held-out results before and after. Run again, it goes on
# where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=configs/qlora_smollm2_135m.json
model=models/SmolLM2-135M-Instruct
run=runs/smollm2-wordnet
merged=runs/smollm2-wordnet-merged
bin=build/release/bin

title() { printf '\n== %s\n' "$*"; }

title "1/7 install"
scripts/setup.sh
title "2/7 build (about 10 minutes the first time)"
cmake --preset release >build/configure.log || { cat build/configure.log; exit 1; }
cmake --build --preset release --target programs
title "3/7 the model"
.venv/bin/python -B scripts/fetch_smollm2.py --output "$model"

started=$SECONDS
mkdir -p runs
title "4/7 held-out results before training"
$bin/qlora-eval --config $config --base-only --generate --max-new-tokens 24 >runs/before.json
cat runs/before.json
title "5/7 fine-tune"
$bin/qlora-train --config $config --resume
title "6/7 held-out results after training"
$bin/qlora-eval --config $config --generate --max-new-tokens 24 --generations runs/generations.jsonl >runs/after.json
cat runs/after.json
title "7/7 merge"
if [[ -f $merged/config.json ]]; then
    echo "already merged: $merged"
else
    $bin/qlora-merge --model "$model" --adapter "$run/adapter" --output "$merged"
fi

title "result"
.venv/bin/python -B - <<'PYTHON'
import json
before, after = (json.load(open(f"runs/{name}.json")) for name in ("before", "after"))
rows = [("held-out loss", before["loss"], after["loss"], "{:.3f}"),
        ("token accuracy", before["token_accuracy"], after["token_accuracy"], "{:.1%}")]
rows += [(f"exact match, {task}", before["exact_match_by_task"][task], after["exact_match_by_task"][task], "{:.1%}")
         for task in sorted(after["exact_match_by_task"])]
print(f"{'':24}{'before':>10}{'after':>10}")
for name, old, new, form in rows:
    print(f"{name:24}{form.format(old):>10}{form.format(new):>10}")
PYTHON
echo
echo "adapter (PEFT loads it): $run/adapter"
echo "merged model (transformers loads it): $merged"
echo "generated answers: runs/generations.jsonl"
echo "everything after the build took $((SECONDS - started)) s"
