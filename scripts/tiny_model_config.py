"""What scripts/make_tiny_model.py makes: the types, the options that its flags stand for, and the configuration
that transformers makes of them."""

import dataclasses
import functools

MODEL_TYPES = (
    "cohere",
    "cohere2",
    "exaone4",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "glm4",
    "gpt2",
    "gpt_neox",
    "granite",
    "hyperclovax",
    "llama",
    "ministral",
    "ministral3",
    "mistral",
    "mistral3",
    "mixtral",
    "olmo2",
    "olmo3",
    "olmoe",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "smollm3",
    "stablelm",
    "starcoder2",
)
# Whose flags are spelled out in `own_values`; of the others transformers' config class tells which keys it has.
SPELLED_OUT = ("llama", "ministral", "mistral", "phi3", "qwen2", "qwen3", "smollm3")
# A text model beside a vision tower: the text's type, unless --config text_config.model_type gives another,
# and a tower of one layer.
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
WRAPPERS = {
    "gemma3": (
        "gemma3_text",
        {"vision_config": {"model_type": "siglip_vision_model", **TOWER}, "mm_tokens_per_image": 4},
    ),
    "mistral3": ("mistral", {"vision_config": {"model_type": "pixtral", "head_dim": 16, **TOWER}}),
}
BIAS_KEYS = ("attention_bias", "mlp_bias", "qkv_bias", "use_bias", "use_qkv_bias")
# Sizes without a flag.
SMALL_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 128}
ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


@dataclasses.dataclass(frozen=True)
class TinyModel:
    """What to make; the fields are the command's flags."""

    model_type: str = "llama"
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int | None = None  # hidden / heads
    intermediate: int | None = None  # 3 * hidden - 8, so that it is no power of two
    vocab: int = 512
    max_positions: int = 512
    tie: bool = False
    bias: bool = False  # llama: attention and MLP; qwen3: attention; qwen2 has q, k, v biases in any case
    rope: str = "default"
    rope_theta: float = 10000.0
    sliding_window: int | None = None
    seed: int = 0
    dtype: str = "float32"
    max_shard_size: str = "5GB"
    old_config: bool = False  # write rope_theta, rope_scaling and torch_dtype as transformers 4 did
    tokenizer: str | None = None  # folder to copy the tokenizer from; else a small BPE is trained
    # Keys of config.json and their values, a dot before a key within one; as given they stand in the file.
    config: dict = dataclasses.field(default_factory=dict)
    drop: tuple = ()  # keys that the file does not have
    bare: bool = False  # leave out each key whose value is the one that transformers takes where it is missing


def text_type(options):
    """The type of the decoder: that of the text model where there are two."""
    own = WRAPPERS.get(options.model_type, (options.model_type,))[0]
    return options.config.get("text_config.model_type", own)


@functools.lru_cache
def keys_of(model_type):
    """The keys that transformers' config class knows."""
    from transformers import AutoConfig

    return frozenset(AutoConfig.for_model(model_type).to_dict())


def key_of(model_type, key):
    """What the type calls llama's `key`."""
    from transformers import AutoConfig

    if (model_type, key) == ("gpt2", "intermediate_size"):
        return "n_inner"
    return AutoConfig.for_model(model_type).attribute_map.get(key, key)


def check(options):
    """Refuses what the model type cannot express: an ignored flag would make a test prove nothing."""
    faults = []
    model_type = text_type(options)
    for name in (options.model_type, model_type):
        if name not in MODEL_TYPES:
            faults.append(f"model type {name!r} is not one of {', '.join(MODEL_TYPES)}")
    if options.rope not in ROPE_TYPES:
        faults.append(f"rope {options.rope!r} is not one of {', '.join(ROPE_TYPES)}")
    if options.bias and model_type in ("ministral", "mistral", "phi3"):
        faults.append(f"{model_type} has no biases")
    if model_type == "phi3" and (options.head_dim is not None or options.rope not in ("default", "longrope")):
        faults.append("phi3 has heads of hidden / heads, and rope default or longrope")
    if options.sliding_window and model_type == "llama":
        faults.append("llama has no sliding window")
    shares_keys = model_type in SPELLED_OUT or (model_type in MODEL_TYPES and "num_key_value_heads" in keys_of(model_type))
    if shares_keys and options.heads % options.kv_heads:
        faults.append(f"{options.heads} heads cannot share {options.kv_heads} key-value heads")
    if options.head_dim is None and options.hidden % options.heads:
        faults.append(f"hidden {options.hidden} is not a multiple of {options.heads} heads; give --head-dim")
    if not faults and model_type not in SPELLED_OUT:
        keys, given = keys_of(model_type), TinyModel()
        for flag, key in (("sliding_window", "sliding_window"), ("head_dim", "head_dim"),
                          ("kv_heads", "num_key_value_heads"), ("rope", "rope_parameters"),
                          ("rope_theta", "rope_parameters")):
            if getattr(options, flag) != getattr(given, flag) and key not in keys:
                faults.append(f"{model_type} has no {key}")
        if options.bias and not keys.intersection(BIAS_KEYS):
            faults.append(f"{model_type} has no biases to switch on")
    if faults:
        raise ValueError("; ".join(faults))


def rope_parameters(options, dims):
    """Of `dims` dimensions of a head."""
    parameters = {"rope_type": options.rope, "rope_theta": options.rope_theta}
    original = {"original_max_position_embeddings": options.max_positions // 4}
    if options.rope in ("linear", "dynamic"):
        parameters["factor"] = 2.0
    if options.rope == "llama3":
        parameters |= {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **original}
    if options.rope == "yarn":
        parameters |= {"factor": 4.0, **original}
    if options.rope == "longrope":
        for name, step in (("short_factor", 0.1), ("long_factor", 1.0)):
            parameters[name] = [1.0 + step * i for i in range(dims // 2)]
        parameters |= {"factor": 4.0, **original}
    return parameters


def common_values(options, vocab):
    """Keys of llama."""
    head_dim = options.head_dim or options.hidden // options.heads
    return {
        "vocab_size": vocab,
        "hidden_size": options.hidden,
        "intermediate_size": options.intermediate or 3 * options.hidden - 8,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "num_key_value_heads": options.kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": options.max_positions,
        "tie_word_embeddings": options.tie,
        "rope_parameters": rope_parameters(options, head_dim),
    }


def own_values(options, vocab):
    """Of the types in SPELLED_OUT."""
    model_type, values = text_type(options), common_values(options, vocab)
    if model_type in ("llama", "qwen3", "smollm3"):
        values["attention_bias"] = options.bias
    if model_type in ("llama", "smollm3"):
        values["mlp_bias"] = options.bias
    if model_type in ("phi3", "smollm3"):
        values["pad_token_id"] = None  # the default is beyond a small vocabulary
    if model_type == "phi3" and options.rope == "longrope":
        values["original_max_position_embeddings"] = options.max_positions // 4
    if model_type == "smollm3":
        # Each second layer knows no positions, and has the window.
        values |= {
            "no_rope_layer_interval": 2,
            "sliding_window": options.sliding_window,
            "use_sliding_window": options.sliding_window is not None,
        }
    if model_type == "ministral" and options.sliding_window:
        # Both kinds of layers in one model.
        kinds = ("sliding_attention", "full_attention")
        values["layer_types"] = [kinds[layer % 2] for layer in range(options.layers)]
    if model_type in ("ministral", "mistral", "phi3"):
        values["sliding_window"] = options.sliding_window
    if model_type in ("qwen2", "qwen3"):
        # The first layer stays full attention, so that both kinds are in one model.
        values |= {
            "sliding_window": options.sliding_window,
            "use_sliding_window": options.sliding_window is not None,
            "max_window_layers": min(1, options.layers - 1),
        }
    return values


def known_values(options, vocab):
    """The same of any other type: the keys that its class has, in its spelling. A flag that is not given leaves
    what the class has."""
    from transformers import AutoConfig

    model_type, given = text_type(options), TinyModel()
    keys, values = keys_of(model_type), common_values(options, vocab) | SMALL_EXPERTS
    values |= {"num_local_experts": 8, "num_experts": 8, "query_pre_attn_scalar": values["head_dim"]}
    values |= {key: True for key in BIAS_KEYS if options.bias}
    values |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    if options.sliding_window:
        values |= {"sliding_window": options.sliding_window, "use_sliding_window": True}
    if (options.rope, options.rope_theta) == (given.rope, given.rope_theta):
        del values["rope_parameters"]
    elif "rope_parameters" in keys:
        theirs = AutoConfig.for_model(model_type).rope_parameters
        dims = int(values["head_dim"] * theirs.get("partial_rotary_factor", 1.0))
        wanted = rope_parameters(options, dims)
        by_layer = "full_attention" in theirs
        values["rope_parameters"] = theirs | ({"full_attention": wanted} if by_layer else wanted)
    return {key_of(model_type, key): value for key, value in values.items() if key_of(model_type, key) in keys}


def transformers_config(options, vocab):
    from transformers import AutoConfig

    model_type = text_type(options)
    values = (own_values if model_type in SPELLED_OUT else known_values)(options, vocab)
    if options.model_type in WRAPPERS:
        values = {"text_config": {"model_type": model_type, **values}, **WRAPPERS[options.model_type][1]}
        values |= {"image_token_index": vocab, "tie_word_embeddings": options.tie}
    return AutoConfig.for_model(options.model_type, **values)


def auto_class(model_type):
    """transformers' class that loads models of the type."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if model_type in WRAPPERS else AutoModelForCausalLM
