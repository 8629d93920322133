"""The tiny models on which every model type is compared with transformers: type -> option -> scripts/make_tiny_model.py's
options. The first of each type is its plain case, made so that all it does shows in the logits: windows shorter than the
rows, softcaps that bend, multipliers away from 1. Ordinary runs compare that and the second one, QLORA_FULL=1 all.
"""

SLIDING, FULL = "sliding_attention", "full_attention"
SIZES = {"intermediate": 128}  # rows of whole blocks of 64 weights, as bitsandbytes' CPU kernel needs them
TIED = {"tie": True}
SHORT_TEXTS = {"max_positions": 128}  # of which rope types with an original length have seen 32
KINDS = {"layer_types": [SLIDING, FULL]}
OTHER_KINDS = {"layer_types": [FULL, SLIDING]}
EVERY_SECOND = {"sliding_window_pattern": 2}
NO_KINDS = {"drop": ("layer_types",)}


def yarn(**more):
    return {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32, **more}


ROPES = {  # for types whose rotation is llama's
    "yarn": {"rope": "yarn", **SHORT_TEXTS},
    "linear": {"rope": "linear"},
    "dynamic": {"rope": "dynamic"},
    "llama3": {"rope": "llama3", **SHORT_TEXTS},
    "longrope": {"rope": "longrope", **SHORT_TEXTS},
    "yarn-old-config": {"rope": "yarn", "old_config": True, **SHORT_TEXTS},
}
GEMMA = {"head_dim": 32, **TIED}
GEMMA2 = {**GEMMA, "sliding_window": 6}
SOFT = {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}
GEMMA3 = {**GEMMA, "sliding_window": 6, **NO_KINDS}
PATTERN3 = {**EVERY_SECOND, "query_pre_attn_scalar": 8}
MULTIPLIERS = {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.2}
YARN3 = {"rope_parameters": yarn(original_max_position_embeddings=64, llama_4_scaling_beta=0.1, mscale=1.0,
                                 mscale_all_dim=1.0)}


def in_text(config):
    return {f"text_config.{key}": value for key, value in config.items()}


OPTIONS = {
    "llama": {
        "plain": {},
        **ROPES,
        "tied-bias": {"bias": True, **TIED},
        "yarn-mscale": {"config": {"rope_parameters": yarn(mscale=1.5, mscale_all_dim=0.7, beta_fast=16, beta_slow=2)},
                        **SHORT_TEXTS},
        "yarn-untruncated": {"config": {"rope_parameters": yarn(truncate=False, attention_factor=1.2)}, **SHORT_TEXTS},
        "yarn-factor-null": {"config": {"rope_parameters": yarn(factor=None)}, **SHORT_TEXTS},
        "llama3-old-config": {"rope": "llama3", "old_config": True, **SHORT_TEXTS},
        "head-dim": {"head_dim": 32},
        "few-keys": {"kv_heads": 4, "drop": ("num_key_value_heads", "head_dim", "rope_parameters", "rms_norm_eps")},
        "bare": {"bare": True},
    },
    "mistral": {
        "plain": {"sliding_window": 7},
        "no-window": {},
        "yarn": ROPES["yarn"],
        "head-dim": {"head_dim": 32},
        "few-keys": {"kv_heads": 8, "heads": 8, "drop": ("num_key_value_heads", "head_dim", "sliding_window")},
    },
    "ministral": {
        "plain": {"head_dim": 32, "sliding_window": 6},
        "all-sliding": {"sliding_window": 6, **NO_KINDS},
        "yarn": {"sliding_window": 6, **ROPES["yarn"]},
    },
    "qwen2": {
        "plain": {"sliding_window": 5, **TIED},
        "yarn": ROPES["yarn"],
        "no-window": {},
        "yarn-old-config": ROPES["yarn-old-config"],
        "layer-types": {"sliding_window": 5, "config": KINDS},
    },
    "qwen3": {
        "plain": {"head_dim": 32, "sliding_window": 6},
        "bias-one-kv-head": {"bias": True, "kv_heads": 1},
        "yarn": ROPES["yarn"],
        "head-dim-missing": {"drop": ("head_dim",)},
        "layer-types": {"sliding_window": 6, "config": KINDS},
    },
    "gemma": {
        "plain": GEMMA,
        "bare": {"bare": True, **GEMMA},
        "gelu": {"config": {"hidden_act": "gelu"}, **GEMMA},
        "untied-bias": {"head_dim": 32, "bias": True},
        "kv-heads-missing": {"heads": 16, "kv_heads": 16, "head_dim": 8, "drop": ("num_key_value_heads",), **TIED},
        "yarn": {**GEMMA, **ROPES["yarn"]},
    },
    "gemma2": {
        "plain": {**GEMMA2, "config": SOFT},
        "bare": {"bare": True, "kv_heads": 4, **TIED},
        "no-softcaps": {**GEMMA2, "config": {**SOFT, "attn_logit_softcapping": None, "final_logit_softcapping": None}},
        "attention-softcap": {**GEMMA2, "config": {**SOFT, "final_logit_softcapping": None}},
        "final-softcap": {**GEMMA2, "config": {**SOFT, "attn_logit_softcapping": None}},
        "layer-types": {**GEMMA2, "config": {**SOFT, **OTHER_KINDS}},
        "layer-types-missing": {**GEMMA2, "layers": 3, "config": SOFT, **NO_KINDS},
        "untied-bias": {"head_dim": 32, "bias": True, "sliding_window": 6, "config": SOFT},
        "yarn-old-config": {**GEMMA2, "config": SOFT, **ROPES["yarn-old-config"]},
    },
    "gemma3_text": {
        "plain": {**GEMMA3, "config": PATTERN3},
        "linear-old-config": {**GEMMA3, "config": PATTERN3, "rope": "linear", "rope_theta": 1e6, "old_config": True},
        "bare": {"bare": True, "layers": 6, "kv_heads": 4, **TIED},
        "final-softcap": {**GEMMA3, "config": {**PATTERN3, "final_logit_softcapping": 5.0}},
        "attention-softcap": {**GEMMA3, "config": {**PATTERN3, "attn_logit_softcapping": 2.0}},
        "layer-types": {**GEMMA2, "config": {**PATTERN3, **OTHER_KINDS}},
        "untied-bias": {"head_dim": 32, "bias": True, "sliding_window": 6, "config": {**PATTERN3, **KINDS}},
        "own-thetas": {**GEMMA3, "config": {**PATTERN3, "rope_parameters": {
            SLIDING: {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}, FULL: yarn(rope_theta=20000.0)}}},
        "one-theta": {**GEMMA3, "config": {**PATTERN3, "rope_theta": 20000.0}, "drop": ("layer_types", "rope_parameters")},
    },
    "gemma3": {
        "plain": {**GEMMA, "sliding_window": 6, "config": in_text(PATTERN3), "drop": ("text_config.layer_types",)},
        "linear-old-config": {**GEMMA, "sliding_window": 6, "rope": "linear", "old_config": True,
                              "config": in_text({**PATTERN3, **KINDS})},
        "bare": {"bare": True, "layers": 6, "kv_heads": 4, **TIED},
        "untied": {"sliding_window": 6, "config": in_text({**PATTERN3, **KINDS})},
        "final-softcap": {**GEMMA, "sliding_window": 6,
                          "config": in_text({**PATTERN3, **KINDS, "final_logit_softcapping": 5.0})},
    },
    "phi3": {
        "plain": {"sliding_window": 7},
        "longrope": {"rope": "longrope", **SHORT_TEXTS},
        "no-window": {},
        "longrope-old-config": {"rope": "longrope", "old_config": True, "config": {"rope_scaling.type": "su"},
                                **SHORT_TEXTS},
        "longrope-one-factor": {"rope": "longrope", "config": {"rope_parameters.attention_factor": 1.3}, **SHORT_TEXTS},
        "longrope-partial": {"max_positions": 128, "config": {
            "original_max_position_embeddings": 32,
            "rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
                                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
                                "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}}},
        "partial": {"config": {"rope_parameters.partial_rotary_factor": 0.75}},
        "partial-old-config": {"old_config": True, "config": {"partial_rotary_factor": 0.75}},
        "tied-mha": {"kv_heads": 4, **TIED},
        "dropout": {"sliding_window": 7, "config": {"resid_pdrop": 0.1}},
        "bare": {"bare": True},
    },
    "granite": {
        "plain": {"config": {**MULTIPLIERS, "logits_scaling": 2.5}},
        "bare": {"bare": True},
        "bias-tied": {"bias": True, "config": {**MULTIPLIERS, "logits_scaling": 2.5}, **TIED},
        "head-dim": {"config": {**MULTIPLIERS, "head_dim": 32}},
        "yarn": {"config": MULTIPLIERS, **ROPES["yarn"]},
    },
    "smollm3": {
        "plain": TIED,
        "window-bias": {"sliding_window": 6, "bias": True, "rope_theta": 2000000.0},
        "few-keys": {"layers": 4, **TIED,
                     "drop": ("no_rope_layers", "no_rope_layer_interval", "layer_types", "rope_parameters")},
        "no-rope-layers": {"config": {"no_rope_layers": [0, 1]}, **TIED},
        "layer-types": {"sliding_window": 6, "config": KINDS},
        "yarn-old-config": {**TIED, **ROPES["yarn-old-config"]},
    },
    "exaone4": {
        "plain": {"sliding_window": 6, "config": EVERY_SECOND, **NO_KINDS},
        "no-window": {"config": {"sliding_window": None, "layer_types": [FULL, FULL]}},
        "layer-types": {"sliding_window": 6, "config": {**OTHER_KINDS, "sliding_window_pattern": "LG"}},
        "head-dim-tied": {"sliding_window": 6, "config": {"head_dim": 32, **KINDS}, **TIED},
        "llama3": {"sliding_window": 6, "config": KINDS, **ROPES["llama3"]},
        "llama3-old-config": {"sliding_window": 6, "config": KINDS, "rope": "llama3", "old_config": True, **SHORT_TEXTS},
        "bare": {"bare": True, "layers": 4},
    },
    "olmo2": {
        "plain": {},
        "bias-tied": {"bias": True, **TIED},
        "kv-heads-missing": {"kv_heads": 4, "drop": ("num_key_value_heads",)},
        "head-dim": {"config": {"head_dim": 32}},
        "yarn": ROPES["yarn"],
        "bare": {"bare": True},
    },
    "olmo3": {
        "plain": {"sliding_window": 6, "config": KINDS},
        "yarn-old-config": {"sliding_window": 6, "config": KINDS, "drop": ("rope_local_base_freq",),
                            **ROPES["yarn-old-config"]},
        "layer-types-missing": {"sliding_window": 6, "layers": 4, **NO_KINDS},
        "thetas": {"sliding_window": 6, "config": {**KINDS, "rope_parameters": {
            SLIDING: {"rope_type": "default", "rope_theta": 5000.0}, FULL: yarn(rope_theta=20000.0)}}},
        "one-theta": {"sliding_window": 6, "config": {**KINDS, "rope_theta": 20000.0}, "drop": ("rope_parameters",)},
        "bias-tied": {"bias": True, "sliding_window": 6, "config": KINDS, **TIED},
        "bare": {"bare": True, "layers": 4},
    },
    "ministral3": {
        "plain": {"head_dim": 32, "max_positions": 256, "config": YARN3},
        "window-tied": {"sliding_window": 6, **TIED},
        "few-keys": {"drop": ("rope_parameters",), "kv_heads": 2},
        "bare": {"bare": True},
    },
    "mistral3": {
        "plain": {"head_dim": 32, "sliding_window": 7},
        "ministral3": {"max_positions": 256, "config": {"text_config.model_type": "ministral3", **in_text(YARN3)}, **TIED},
        "old-config": {"old_config": True, "rope_theta": 1e6},
        "tie-missing": {"drop": ("tie_word_embeddings", "text_config.tie_word_embeddings"), **TIED},
    },
    "gpt2": {
        "plain": TIED,
        "inverse-layers": {"config": {"scale_attn_by_inverse_layer_idx": True}, **TIED},
        "inner-missing": {"config": {"n_inner": None}, **TIED},
        "unscaled": {"config": {"scale_attn_weights": False}, **TIED},
        "gelu-untied": {"config": {"activation_function": "gelu"}},
        "bare": {"bare": True, **TIED},
    },
    "gpt_neox": {
        "plain": {},
        "sequential-old-config": {"old_config": True, "config": {"use_parallel_residual": False, "rotary_pct": 0.5,
                                                                 "rotary_emb_base": 5000}},
        "sequential": {"config": {"use_parallel_residual": False}},
        "no-bias-tied": {"config": {"attention_bias": False}, **TIED},
        "gelu-new": {"config": {"hidden_act": "gelu_new"}},
        "whole-heads": {"config": {"rope_parameters.partial_rotary_factor": 1.0}},
        "linear": {"config": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000,
                                                  "partial_rotary_factor": 0.25}}},
        "bare": {"bare": True},
    },
    "cohere": {
        "plain": {"config": {"logit_scale": 0.5}, **TIED},
        "qk-norm": {"config": {"logit_scale": 0.5, "use_qk_norm": True}, **TIED},
        "bare": {"bare": True, **TIED},
        "untied-bias": {"bias": True, "config": {"logit_scale": 0.5}},
        "kv-heads-missing": {"kv_heads": 4, "drop": ("num_key_value_heads",), **TIED},
        "yarn": {**TIED, **ROPES["yarn"]},
        "old-config": {"old_config": True, "rope_theta": 20000.0, **TIED},
    },
    "cohere2": {
        "plain": {"sliding_window": 6, "config": {"logit_scale": 0.5, **EVERY_SECOND}, **NO_KINDS, **TIED},
        "layer-types": {"sliding_window": 6, "config": {"logit_scale": 0.5, **OTHER_KINDS}, **TIED},
        "bare": {"bare": True, "layers": 4, **TIED},
        "untied-bias": {"bias": True, "sliding_window": 6, "config": {"logit_scale": 0.5, **KINDS}},
        "linear": {"sliding_window": 6, "rope": "linear", "config": {"logit_scale": 0.5, **KINDS}, **TIED},
        "head-dim": {"sliding_window": 6, "head_dim": 32, "config": KINDS, **TIED},
    },
    "glm4": {
        "plain": {},
        "no-bias-tied": {"config": {"attention_bias": False}, "head_dim": 32, **TIED},
        "whole-heads": {"config": {"rope_parameters.partial_rotary_factor": 1.0}},
        "head-dim-missing": {"drop": ("head_dim",), "heads": 2},
        "old-config": {"old_config": True, "config": {"partial_rotary_factor": 0.25}},
        "bare": {"bare": True},
    },
    "starcoder2": {
        "plain": {"sliding_window": 6, **TIED},
        "no-bias": {"config": {"use_bias": False}, "kv_heads": 1},
        "gelu": {"config": {"hidden_act": "gelu"}, **TIED},
        "yarn": {**TIED, **ROPES["yarn"]},
        "dropout": {"sliding_window": 6, **TIED,
                    "config": {"residual_dropout": 0.1, "embedding_dropout": 0.1, "attention_dropout": 0.1}},
        "bare": {"bare": True, **TIED},
    },
    "phi": {
        "plain": {},
        "qk-norm-tied": {"config": {"qk_layernorm": True}, **TIED},
        "gelu": {"config": {"hidden_act": "gelu"}},
        "partial": {"config": {"rope_parameters.partial_rotary_factor": 0.4}},
        "partial-old-config": {"old_config": True, "config": {"partial_rotary_factor": 0.25}},
        "kv-heads-missing": {"kv_heads": 4, "drop": ("num_key_value_heads",)},
        "bare": {"bare": True},
    },
    "stablelm": {
        "plain": {},
        "parallel-qk-norm-bias": {"bias": True, "config": {"use_parallel_residual": True, "qk_layernorm": True}},
        "parallel": {"config": {"use_parallel_residual": True}},
        "qk-norm": {"config": {"qk_layernorm": True}},
        "bias-tied": {"bias": True, **TIED},
        "old-config": {"old_config": True, "config": {"partial_rotary_factor": 0.5}},
        "bare": {"bare": True},
    },
    "hyperclovax": {
        "plain": {"config": {**MULTIPLIERS, "logits_scaling": 0.4}},
        "no-post-norm": {"config": {**MULTIPLIERS, "logits_scaling": 0.4, "use_post_norm": False}},
        "bare": {"bare": True, "drop": ("attention_multiplier",)},
        "bias-tied": {"bias": True, "config": {**MULTIPLIERS, "logits_scaling": 0.4}, **TIED},
        "yarn": ROPES["yarn"],
    },
    "mixtral": {
        "plain": {},
        "window-tied": {"sliding_window": 6, **TIED},
        "three-of-five": {"config": {"num_local_experts": 5, "num_experts_per_tok": 3}},
        "bare": {"bare": True},
    },
    "qwen3_moe": {
        "plain": {"config": {"norm_topk_prob": True, "head_dim": 32}},
        "dense-layer": {"layers": 3, "bias": True, "config": {"mlp_only_layers": [1], "norm_topk_prob": False}},
        "sparse-step": {"layers": 3, "config": {"decoder_sparse_step": 2}},
        "window": {"sliding_window": 6, "layers": 2},
        "bare": {"bare": True},
    },
    "olmoe": {
        "plain": {},
        "renormalised": {"config": {"norm_topk_prob": True}},
        "tied-bias": {"bias": True, **TIED},
        "bare": {"bare": True},
    },
    "qwen2_moe": {
        "plain": {},
        "dense-layer-renormalised": {"layers": 3, "config": {"mlp_only_layers": [1], "norm_topk_prob": True}},
        "no-bias-tied": {"config": {"qkv_bias": False}, **TIED},
        "bare": {"bare": True},
    },
}

# As transformers reads them these change nothing: rows shorter than dynamic's first length, a name for the same
# activation, softcaps that are not applied, dropout outside of training.
NO_DIFFERENCE = {"llama-dynamic", "gemma-gelu", "gemma3-final-softcap", "gemma3_text-attention-softcap", "phi3-dropout",
                 "starcoder2-dropout"}

CASES = {f"{model_type}-{option}": {"model_type": model_type, **SIZES, **options}
         for model_type, variants in OPTIONS.items() for option, options in variants.items()}
