#!/usr/bin/env python3
"""Makes the instruction set data/wordnet_{train,eval}.jsonl out of WordNet 3.0's noun files.

Two tasks: `category` (word and definition -> one of twelve lexicographer categories; the answer can be
checked) and `define` (word -> its definition; a free answer). Needs only the Python standard library and
Debian's wordnet-base; the output depends on nothing but those files and the constants below.
"""

import argparse
import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

# The lexicographer files of nouns, in the order of their numbers from 03 on (man page lexnames(5WN)).
LEXICOGRAPHER_FILES = (
    "Tops act animal artifact attribute body cognition communication event feeling food group "
    "location motive object person phenomenon plant possession process quantity relation shape "
    "state substance time"
).split()
FIRST_NOUN_FILE = 3
# Those that a short definition tells apart; attribute, state, event and the like blur into each other.
CATEGORIES = (
    "act",
    "animal",
    "artifact",
    "body",
    "communication",
    "feeling",
    "food",
    "location",
    "person",
    "plant",
    "substance",
    "time",
)

TRAIN_PER_CATEGORY, EVAL_PER_CATEGORY = 125, 19
TRAIN_DEFINE, EVAL_DEFINE = 500, 72
DEFINITION_WORDS = range(3, 13)
SYSTEM = {"category": "Name the category of the noun.", "define": "Define the noun."}

# A teaching set has no use for these, whatever WordNet's reasons to list them.
UNWANTED = re.compile(
    r"\b(sex\w*|coit\w*|genital\w*|vagina\w*|vulva\w*|penis\w*|penile|testic\w*|breasts?|prostitut\w*|"
    r"whore\w*|slut\w*|obscen\w*|offensive\w*|vulgar\w*|slang|slur|disparag\w*|derogat\w*|insult\w*|"
    r"homosexual\w*|lesbian\w*|negro\w*|nigg\w*|jews?|jewish|rape\w*|masturbat\w*|orgasm\w*|"
    r"excrement|feces|faeces|defecat\w*|urin\w*|buttocks|anus|rectum|suicide|semen|ejaculat\w*)\b",
    re.IGNORECASE,
)


class Noun(NamedTuple):
    word: str
    category: str
    definition: str
    commonness: int  # times tagged in WordNet's corpus + times the word stands in any gloss


def records(path):
    """The lines of a WordNet database file after the licence, which is indented."""
    with open(path, encoding="latin-1") as file:
        yield from (line for line in file if not line.startswith(" "))


def licence_text(path):
    """The licence at the head of a database file, without its line numbers."""
    with open(path, encoding="latin-1") as file:
        lines = [line for line in file if line.startswith(" ")]
    return "\n".join(re.sub(r"^\s*\d+ ?", "", line).rstrip() for line in lines).strip() + "\n"


def tag_counts(wordnet):
    """Sense key -> how often the sense was tagged in the semantic concordances."""
    counts = {}
    with open(wordnet / "cntlist.rev", encoding="latin-1") as file:
        for line in file:
            key, _, count = line.split()
            counts[key] = int(count)
    return counts


def mostly_verbs(tagged):
    """Words tagged more often as verb (sense type 2) than as noun (1): see, have, remove."""
    counts = {"1": Counter(), "2": Counter()}
    for key, count in tagged.items():
        word, _, sense = key.partition("%")
        if sense[0] in counts:
            counts[sense[0]][word] += count
    return {word for word, count in counts["2"].items() if count > counts["1"][word]}


def gloss_counts(wordnet):
    """Word -> how often it stands in the definitions and examples of all parts of speech."""
    counts = Counter()
    for part in ("noun", "verb", "adj", "adv"):
        for line in records(wordnet / f"data.{part}"):
            counts.update(re.findall(r"[a-z]+", line.partition(" | ")[2].lower()))
    return counts


def lemmas(wordnet, part):
    """Lemma -> synset offsets of its senses, the most frequent first."""
    found = {}
    for line in records(wordnet / f"index.{part}"):
        fields = line.split()
        found[fields[0]] = fields[-int(fields[2]) :]
    return found


def short_definition(gloss):
    """The gloss up to the first semicolon (the rest is further wordings, examples), without remarks in ()."""
    return " ".join(re.sub(r"\([^)]*\)", " ", gloss.partition(";")[0]).split())


def read_nouns(wordnet):
    """One noun a synset: its most common one-word member that has this synset as first sense."""
    tagged, in_glosses, senses = tag_counts(wordnet), gloss_counts(wordnet), lemmas(wordnet, "noun")
    other = lemmas(wordnet, "adj").keys() | lemmas(wordnet, "adv").keys() | mostly_verbs(tagged)
    for line in records(wordnet / "data.noun"):
        head, _, gloss = line.partition(" | ")
        fields = head.split()
        offset, file_number, members = fields[0], int(fields[1]), int(fields[3], 16)
        definition = short_definition(gloss)
        # ;u marks usage: slang, slurs, trade names.
        if len(definition.split()) not in DEFINITION_WORDS or ";u" in fields or UNWANTED.search(gloss):
            continue
        if not re.fullmatch(r"[A-Za-z0-9 ,.'/-]+", definition):
            continue
        candidates = []
        for member in range(members):
            word, lex_id = fields[4 + 2 * member], int(fields[5 + 2 * member], 16)
            if not re.fullmatch(r"[a-z]{3,12}", word) or word in other or UNWANTED.search(word):
                continue
            if senses[word][0] != offset or re.search(rf"\b{word}s?\b", definition, re.IGNORECASE):
                continue
            count = tagged.get(f"{word}%1:{file_number:02}:{lex_id:02}::", 0)
            # Without a count the order of several senses says nothing.
            if count > 0 or len(senses[word]) == 1:
                candidates.append((count + in_glosses[word], word))
        if candidates:
            commonness, word = max(candidates)
            yield Noun(word, LEXICOGRAPHER_FILES[file_number - FIRST_NOUN_FILE], definition, commonness)


def shuffled(items, salt, key):
    """A fixed order that looks random and does not depend on the Python version."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{salt}:{key(item)}".encode()).digest())


def split(items, train, salt):
    order = shuffled(items, salt, lambda noun: noun.word)
    return order[:train], order[train:]


def row(task, noun):
    question, answer = {
        "category": (f"{noun.word}: {noun.definition}", noun.category),
        "define": (noun.word, noun.definition),
    }[task]
    return {
        "messages": [
            {"role": "system", "content": SYSTEM[task]},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ],
        "task": task,
    }


def make_rows(nouns):
    """(training rows, held-out rows); a word is in one row only."""
    by_category = defaultdict(list)
    # Most common first; a definition that several synsets share is used once.
    by_commonness = sorted(nouns, key=lambda noun: (-noun.commonness, noun.word))
    distinct = {noun.definition.lower(): noun for noun in reversed(by_commonness)}.values()
    ranked = sorted(distinct, key=lambda noun: (-noun.commonness, noun.word))
    for noun in ranked:
        by_category[noun.category].append(noun)
    train, held_out, used = [], [], set()
    for category in CATEGORIES:
        chosen = by_category[category][: TRAIN_PER_CATEGORY + EVAL_PER_CATEGORY]
        used.update(noun.word for noun in chosen)
        first, second = split(chosen, TRAIN_PER_CATEGORY, category)
        train += [row("category", noun) for noun in first]
        held_out += [row("category", noun) for noun in second]
    rest = [noun for noun in ranked if noun.word not in used][: TRAIN_DEFINE + EVAL_DEFINE]
    first, second = split(rest, TRAIN_DEFINE, "define")
    train += [row("define", noun) for noun in first]
    held_out += [row("define", noun) for noun in second]
    return tuple(
        shuffled(rows, "rows", lambda entry: entry["messages"][1]["content"]) for rows in (train, held_out)
    )


def write_rows(path, rows):
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in rows), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--wordnet",
        type=Path,
        default=Path("/usr/share/wordnet"),
        help="folder with data.noun, index.noun, cntlist.rev (default: /usr/share/wordnet)",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "data", help="folder to write (default: data)")
    arguments = parser.parse_args()
    try:
        train, held_out = make_rows(read_nouns(arguments.wordnet))
        licence = licence_text(arguments.wordnet / "data.noun")
        arguments.output.mkdir(parents=True, exist_ok=True)
        write_rows(arguments.output / "wordnet_train.jsonl", train)
        write_rows(arguments.output / "wordnet_eval.jsonl", held_out)
        (arguments.output / "WORDNET_LICENSE").write_text(licence, encoding="utf-8")
    except OSError as error:
        print(
            f"make_wordnet_data: {error.strerror}: {error.filename}. WordNet's files come with Debian's "
            "package wordnet-base, or give their folder with --wordnet.",
            file=sys.stderr,
        )
        return 2
    print(f"wrote {len(train)} training and {len(held_out)} held-out rows to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
