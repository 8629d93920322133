"""Writes random model folders of named shapes, dense or in NF4 as bitsandbytes stores it, with a tokenizer of
single bytes. Needs the standard library only. The same arguments give the same bytes.
"""

import array
import json
import random
import re
import struct
from pathlib import Path

CODEBOOK = Path(__file__).resolve().parents[2] / "include" / "qlora" / "kernels" / "codebook.h"
BLOCKSIZE, NESTED_BLOCKSIZE = 64, 256
NF4_RMS = 0.54  # of its 16 values, each as likely
END_OF_TEXT = 256  # the id after the bytes
PATTERN_VALUES = 1 << 20

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def model_config(
    model_type, hidden, intermediate, layers, heads, kv_heads, head_dim, vocab, tie, rope, eps=1e-5
):
    return {
        "architectures": [{"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[model_type]],
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocab,
        "tie_word_embeddings": tie,
        "rms_norm_eps": eps,
        "max_position_embeddings": 40960,
        "rope_parameters": rope,
        "hidden_act": "silu",
        "attention_bias": False,
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": END_OF_TEXT,
    }


SHAPES = {
    "tiny": model_config(
        "llama", 128, 352, 4, 4, 2, 32, 512, False, {"rope_type": "default", "rope_theta": 10000.0}
    ),
    "Qwen3-0.6B": model_config(
        "qwen3", 1024, 3072, 28, 16, 8, 128, 151936, True, {"rope_type": "default", "rope_theta": 1e6}, 1e-6
    ),
    "Llama-3.2-1B": model_config(
        "llama", 2048, 8192, 16, 32, 8, 64, 128256, True, LLAMA3_ROPE | {"factor": 32.0}
    ),
    "Llama-3.1-8B": model_config(
        "llama", 4096, 14336, 32, 32, 8, 128, 128256, False, LLAMA3_ROPE | {"factor": 8.0}
    ),
}


# --- tokenizer ---


def byte_characters():
    """The visible character that byte-level BPE writes for each byte."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def write_tokenizer(folder):
    characters = byte_characters()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    special = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": END_OF_TEXT, "content": "<|endoftext|>", **special}],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {characters[byte]: byte for byte in range(256)} | {"<|endoftext|>": END_OF_TEXT},
            "merges": [],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | names
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


# --- tensors ---


def linears(config):
    """(name under the layer, inputs, outputs)"""
    d, ff = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    return [
        ("self_attn.q_proj", d, q),
        ("self_attn.k_proj", d, kv),
        ("self_attn.v_proj", d, kv),
        ("self_attn.o_proj", q, d),
        ("mlp.gate_proj", d, ff),
        ("mlp.up_proj", d, ff),
        ("mlp.down_proj", ff, d),
    ]


def dense_tensors(config):
    """(name, shape, whether it is a linear's) in the order of the file."""
    d, vocab = config["hidden_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", [vocab, d], False
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", [vocab, d], False
    yield "model.norm.weight", [d], False
    for layer in range(config["num_hidden_layers"]):
        path = f"model.layers.{layer}"
        norms = [("input_layernorm", d), ("post_attention_layernorm", d)]
        if config["model_type"] == "qwen3":
            norms += [(f"self_attn.{name}", config["head_dim"]) for name in ("q_norm", "k_norm")]
        for name, size in norms:
            yield f"{path}.{name}.weight", [size], False
        for name, inputs, outputs in linears(config):
            yield f"{path}.{name}.weight", [outputs, inputs], True


def nf4_table():
    bits = re.findall(r"0x([0-9a-f]{8})", CODEBOOK.read_text(encoding="utf-8").partition("kBits")[2])[:16]
    return b"".join(struct.pack("<I", int(word, 16)) for word in bits)


def dynamic_map():
    """bitsandbytes' signed map, to within a unit in the last place of fp32."""
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = [0.1 + 0.9 * i / 2**exponent for i in range(2**exponent + 1)]
        means = [(low + high) / 2 * 10.0 ** (exponent - 6) for low, high in zip(edges, edges[1:])]
        values += [sign * mean for mean in means for sign in (1, -1)]
    return struct.pack("<256f", *sorted(values))


def random_floats(seed, deviation):
    generator = random.Random(seed)
    return array.array("f", [generator.gauss(0.0, deviation) for _ in range(PATTERN_VALUES)]).tobytes()


def as_bf16(floats):
    """The upper halves of fp32 values."""
    halves = bytearray(len(floats) // 2)
    halves[0::2], halves[1::2] = floats[2::4], floats[3::4]
    return bytes(halves)


class Pattern:
    """Bytes repeated from a place of its own for each tensor."""

    def __init__(self, content, unit):
        self.content, self.unit, self.place = memoryview(content), unit, 0

    def chunks(self, size):
        self.place = (self.place + 1009 * self.unit) % len(self.content)
        place = self.place
        while size > 0:
            piece = self.content[place : place + size]
            yield piece
            size -= len(piece)
            place = (place + len(piece)) % len(self.content)


class Writer:
    """Collects tensors, then writes one safetensors file."""

    def __init__(self):
        self.header, self.parts, self.size = {"__metadata__": {"format": "pt"}}, [], 0

    def add(self, name, dtype, shape, size, content):
        """`content`: bytes, or a Pattern to take `size` bytes from."""
        self.header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [self.size, self.size + size]}
        self.parts.append((content, size))
        self.size += size

    def write(self, file):
        header = json.dumps(self.header).encode()
        header += b" " * (-len(header) % 8)
        with open(file, "wb") as out:
            out.write(struct.pack("<Q", len(header)) + header)
            for content, size in self.parts:
                for piece in [content] if isinstance(content, bytes) else content.chunks(size):
                    out.write(piece)


def add_nf4(writer, name, shape, patterns, offset):
    n = shape[0] * shape[1]
    blocks = -(-n // BLOCKSIZE)
    state = {"quant_type": "nf4", "blocksize": BLOCKSIZE, "dtype": "bfloat16", "shape": shape}
    state |= {"nested_blocksize": NESTED_BLOCKSIZE, "nested_dtype": "float32", "nested_offset": offset}
    text = json.dumps(state).encode()
    nested = -(-blocks // NESTED_BLOCKSIZE)
    # Scales of 0.5 to 1.5 times the offset.
    small = struct.pack("<f", 0.5 * offset) * nested
    writer.add(name, "U8", [n // 2, 1], n // 2, patterns["bytes"])
    writer.add(f"{name}.absmax", "U8", [blocks], blocks, patterns["bytes"])
    writer.add(f"{name}.nested_absmax", "F32", [nested], len(small), small)
    writer.add(f"{name}.quant_map", "F32", [16], 64, nf4_table())
    writer.add(f"{name}.nested_quant_map", "F32", [256], 1024, dynamic_map())
    writer.add(f"{name}.quant_state.bitsandbytes__nf4", "U8", [len(text)], len(text), text)


def write_model(folder, shape, stored, seed=0):
    """`shape`: a name of SHAPES; `stored`: float32, bfloat16, or nf4 with the rest in bfloat16."""
    config = dict(SHAPES[shape])
    config["dtype"] = "float32" if stored == "float32" else "bfloat16"
    folder.mkdir(parents=True, exist_ok=True)
    deviation = config["hidden_size"] ** -0.5
    floats = random_floats(seed, deviation)
    width, dtype = (4, "F32") if stored == "float32" else (2, "BF16")
    patterns = {
        "weights": Pattern(floats if width == 4 else as_bf16(floats), width),
        "bytes": Pattern(random.Random(seed).randbytes(1 << 24), 1),
    }
    one = struct.pack("<f", 1.0) if width == 4 else as_bf16(struct.pack("<f", 1.0))
    writer = Writer()
    for name, dimensions, is_linear in dense_tensors(config):
        if is_linear and stored == "nf4":
            add_nf4(writer, name, dimensions, patterns, deviation / NF4_RMS)
        elif len(dimensions) == 1:
            writer.add(name, dtype, dimensions, width * dimensions[0], one * dimensions[0])
        else:
            size = width * dimensions[0] * dimensions[1]
            writer.add(name, dtype, dimensions, size, patterns["weights"])
    if stored == "nf4":
        config["quantization_config"] = {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": ["lm_head"],
        }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    write_tokenizer(folder)
    writer.write(folder / "model.safetensors")
    return folder


# --- rows ---


def letters(generator, count):
    return "".join(generator.choices("abcdefghijklmnopqrstuvwxyz ,.", k=count))


def text_rows(count, tokens, seed=0):
    """Rows that are `tokens` ids with the end of the text, all of them with a loss."""
    generator = random.Random(seed)
    return [{"text": letters(generator, tokens - 1)} for _ in range(count)]


def answer_rows(count, seed=0):
    """Ragged rows with a loss on the answer alone."""
    generator = random.Random(seed)
    return [
        {
            "prompt": letters(generator, generator.randint(5, 60)),
            "completion": letters(generator, generator.randint(5, 60)),
        }
        for _ in range(count)
    ]


def row_ids(row):
    return [*row["text"].encode(), END_OF_TEXT]


def write_rows(rows, file):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
