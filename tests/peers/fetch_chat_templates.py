#!/usr/bin/env python3
"""Downloads the packages whose chat templates test_jinja.py renders, and unpacks those files; nothing is installed.

The cache folder is QLORA_TEST_CACHE (default: build/test-cache). What is there already is not fetched again.
"""

import fcntl
import hashlib
import subprocess
import sys
import tarfile
import zipfile

from fetch_vocabularies import cache_folder, wheel_of

LLAMA = "llama-cpp-python==0.3.36"
LLAMA_FOLDER = "/vendor/llama.cpp/models/templates/"
TRL = "trl==1.16.0"
TRL_FOLDER = "trl/chat_templates/"
# sha256 over the names and texts of all templates, in the order of their names.
DIGEST = "56acd122a0e22b488b1fbd25d97b55509f2b2edb27d3b97a40ad84429a2560f5"


def llama_templates(cache):
    """The templates in the source package; pip asks the package for its metadata, nothing is built."""
    pattern = "llama_cpp_python-*.tar.gz"
    if not list(cache.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
        subprocess.run([*command, "--dest", str(cache), LLAMA], check=True)
    archive = next(cache.glob(pattern))
    found = {}
    with tarfile.open(archive) as package:
        for member in package:
            if LLAMA_FOLDER in member.name and member.name.endswith(".jinja"):
                found["llama.cpp-" + member.name.rpartition("/")[2]] = package.extractfile(member).read()
    archive.unlink()  # 77 MB, of which the templates are 500 KB
    return found


def trl_templates(cache):
    with zipfile.ZipFile(wheel_of(TRL, cache)) as wheel:
        return {
            "trl-" + name.removeprefix(TRL_FOLDER): wheel.read(name)
            for name in wheel.namelist()
            if name.startswith(TRL_FOLDER) and name.endswith(".jinja")
        }


def digest_of(templates):
    digest = hashlib.sha256()
    for name in sorted(templates):
        digest.update(name.encode() + b"\0" + templates[name] + b"\0")
    return digest.hexdigest()


def fetch_chat_templates():
    """Name -> text of all templates: 70 of llama.cpp; 41 of trl, and the 31 that trl made of them for training."""
    cache = cache_folder()
    folder = cache / "chat_templates"
    folder.mkdir(parents=True, exist_ok=True)
    with (cache / "chat_templates.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run side by side
        return unpacked_templates(cache, folder)


def unpacked_templates(cache, folder):
    templates = {file.name: file.read_bytes() for file in folder.glob("*.jinja")}
    if digest_of(templates) != DIGEST:
        templates = llama_templates(cache) | trl_templates(cache)
        if digest_of(templates) != DIGEST:
            raise SystemExit(f"the templates of {LLAMA} and {TRL} are not those that the tests expect")
        for name, data in templates.items():
            partial = folder / (name + ".partial")
            partial.write_bytes(data)
            partial.replace(folder / name)
    return {name: data.decode() for name, data in sorted(templates.items())}


if __name__ == "__main__":
    print(len(fetch_chat_templates()), "templates in", cache_folder() / "chat_templates")
