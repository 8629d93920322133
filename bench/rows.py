"""Makes a cell's data: the file that qlora-train reads, and the same rows as ids for the peers.

    rows.py --model DIR --data data --cell C1 --count 88 --output DIR
    rows.py --model DIR --count-tokens generations.jsonl

Writes data.jsonl and rows.json ({"rows": [{"ids": [...], "supervised": [0, 1, ...]}]}) with the
checkpoint's own tokenizer as transformers runs it. Texts are WordNet's definitions from the
project's data folder.
"""

import argparse
import json
import math
import random
import re
from pathlib import Path

from cells import CELLS, PROMPT
from transformers import AutoTokenizer

SHORTEST, LONGEST = 60, 500  # tokens of an instruction row
ANSWERS = re.compile(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", re.DOTALL)


def read_lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def definitions(data):
    """(noun, definition) of the rows that name both."""
    pairs = []
    for row in read_lines(data / "wordnet_train.jsonl"):
        if row["task"] == "category":
            noun, _, text = row["messages"][1]["content"].partition(": ")
            pairs.append((noun, text))
    return pairs


class TextSource:
    """Running text cut to a number of tokens."""

    def __init__(self, tokenizer, data, generator):
        self.tokenizer, self.generator = tokenizer, generator
        text = " ".join(f"{noun.capitalize()} is {words}." for noun, words in definitions(data))
        self.ids = encode(tokenizer, text)

    def cut(self, tokens):
        """Text that the tokenizer turns into exactly so many ids, from a random place."""
        while True:
            begin = self.generator.randrange(len(self.ids) - tokens)
            ids = self.ids[begin : begin + tokens]
            text = self.tokenizer.decode(ids)
            if encode(self.tokenizer, text) == ids:
                return text, ids


def text_row(source, tokens, supervised_tokens):
    """A row of exact length that ends in EOS; its last `supervised_tokens` have a loss."""
    end = source.tokenizer.eos_token_id
    if supervised_tokens == tokens:
        text, ids = source.cut(tokens - 1)
        return {"text": text}, ids + [end], [1] * tokens
    prompt, prompt_ids = source.cut(tokens - supervised_tokens)
    completion, completion_ids = source.cut(supervised_tokens - 1)
    mask = [0] * len(prompt_ids) + [1] * supervised_tokens
    return {"prompt": prompt, "completion": completion}, prompt_ids + completion_ids + [end], mask


def chat_row(tokenizer, messages):
    """Ids of apply_chat_template; supervised are the answers with their end token."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = [match.span(1) for match in ANSWERS.finditer(text)]
    mask = [int(any(a <= begin < b for a, b in spans)) for begin, _ in encoded["offset_mapping"]]
    return encoded["input_ids"], mask


def conversation(tokenizer, pairs, tokens):
    """Questions and answers until the row is about `tokens` long."""
    messages = [{"role": "system", "content": "Define the noun."}]
    while True:
        noun, text = next(pairs)
        turn = [{"role": "user", "content": noun}, {"role": "assistant", "content": text}]
        ids, mask = chat_row(tokenizer, messages + turn)
        if len(messages) > 1 and len(ids) > tokens:
            return messages, *chat_row(tokenizer, messages)
        messages += turn


def chat_rows(tokenizer, data, generator, count):
    """Lengths are spread evenly over the logarithm, as instruction data's are, roughly."""
    pairs = definitions(data)

    def endless():
        while True:
            generator.shuffle(pairs)
            yield from pairs

    source = endless()
    while count > 0:
        wanted = math.exp(generator.uniform(math.log(SHORTEST), math.log(LONGEST)))
        messages, ids, mask = conversation(tokenizer, source, wanted)
        if SHORTEST <= len(ids) <= LONGEST:
            yield {"messages": messages}, ids, mask
            count -= 1


def held_out_rows(tokenizer, data, count):
    for row in read_lines(data / "wordnet_eval.jsonl")[:count]:
        ids, mask = chat_row(tokenizer, row["messages"])
        yield {"messages": row["messages"], "task": row["task"]}, ids, mask


def prompt_row(tokenizer):
    """One question to generate an answer to; the row needs an answer too, which is not used."""
    messages = [*PROMPT, {"role": "assistant", "content": "Once upon a time."}]
    ids, mask = chat_row(tokenizer, messages)
    yield {"messages": messages}, ids, mask


def make_rows(tokenizer, data, cell, count):
    generator = random.Random(cell.name)
    if cell.data == "text":
        source = TextSource(tokenizer, data, generator)
        return [text_row(source, cell.tokens, cell.supervised) for _ in range(count)]
    if cell.data == "chat":
        return list(chat_rows(tokenizer, data, generator, count))
    if cell.data == "prompt":
        return list(prompt_row(tokenizer))
    return list(held_out_rows(tokenizer, data, count))


def write_rows(rows, output):
    with open(output / "data.jsonl", "w", encoding="utf-8") as file:
        for row, _, _ in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    rows = [{"ids": ids, "supervised": mask} for _, ids, mask in rows]
    (output / "rows.json").write_text(json.dumps({"rows": rows}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="the project's data folder")
    parser.add_argument("--cell", choices=CELLS)
    parser.add_argument("--count", type=int)
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--count-tokens", type=Path, help="print how many tokens the generated texts have"
    )
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    if options.count_tokens:
        texts = [line["generated"] for line in read_lines(options.count_tokens)]
        print(sum(len(encode(tokenizer, text)) for text in texts))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    rows = make_rows(tokenizer, options.data, CELLS[options.cell], options.count)
    write_rows(rows, options.output)


if __name__ == "__main__":
    main()
