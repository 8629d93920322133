#!/usr/bin/env python3
"""Writes rows of made-up words with what qlora-data looks for in them, to measure its speed.

    scripts/make_synthetic_rows.py --rows 100000 --output rows.jsonl

In a hundred rows: three repeat an earlier one, three are nearly one, two have its prompt with another answer, one refuses.
"""

import argparse
import itertools
import json
import random
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=90, help="of an answer, in the mean")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    random.seed(1)
    syllables = [first + second for first in "bdfgklmnprstv" for second in ("a", "e", "i", "o", "u", "an", "er", "is")]
    words = ["".join(random.choices(syllables, k=random.randint(1, 3))) for _ in range(20_000)]
    cumulative = list(itertools.accumulate(1 / (rank + 10) for rank in range(len(words))))

    def text(mean):
        return " ".join(random.choices(words, cum_weights=cumulative, k=max(3, int(random.expovariate(1 / mean)))))

    rows = []
    while len(rows) < options.rows:
        kind = random.random()
        prompt, answer = (text(options.words / 4) + "?", text(options.words) + ".")
        if rows and kind < 0.08:
            old_prompt, old_answer = random.choice(rows)
            prompt = old_prompt
            if kind < 0.03:
                answer = old_answer
            elif kind < 0.06:
                answer = old_answer + " " + random.choice(words)
        elif kind < 0.09:
            answer = "I'm sorry, but I can't help with that."
        rows.append((prompt, answer))
    system = "You are a helpful assistant that answers in made-up words."
    with options.output.open("w") as out:
        for prompt, answer in rows:
            messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt},
                        {"role": "assistant", "content": answer}]
            out.write(json.dumps({"messages": messages}) + "\n")


if __name__ == "__main__":
    main()
