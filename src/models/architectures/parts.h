#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "../config_reader.h"
#include "../rope_config.h"
#include "qlora/models/decoder_spec.h"

/// What the files of this folder put their decoders together from. Names are llama's unless an argument says
/// otherwise.
namespace qlora::models {

/// What a type's norms have in common.
struct NormRule {
    double eps = 1e-6;
    spec::NormKind kind = spec::NormKind::kRms;
    bool bias = false;
    bool offset = false;
};

/// The sizes that nearly each config.json has under the same keys, and what all layers share.
struct Sizes {
    std::int64_t vocabulary = 0, hidden = 0, inner = 0, layers = 0, max_positions = 0;
    std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
    NormRule norm;
    std::string prefix = "model.";         ///< of the decoder's modules
    std::string layer_prefix = "layers.";  ///< of a layer within them, before its number
};

/// What config.json calls them.
struct SizeKeys {
    const char* hidden = "hidden_size";
    const char* inner = "intermediate_size";
    const char* layers = "num_hidden_layers";
    const char* heads = "num_attention_heads";
    const char* kv_heads = "num_key_value_heads";  ///< null: the type has as many as query heads
    const char* head_dim = "head_dim";             ///< null: it is hidden / heads
    const char* max_positions = "max_position_embeddings";
    const char* eps = "rms_norm_eps";
};

/// transformers' defaults for keys that are missing.
struct SizeDefaults {
    SizeKeys keys = {};
    std::int64_t vocabulary = 0, hidden = 0, inner = 0, layers = 0, heads = 0;  ///< 0: must be given
    std::int64_t max_positions = 2048;
    std::int64_t inner_of_hidden =
        0;                      ///< the inner size is so many times the hidden size; 0: it must be given
    std::int64_t kv_heads = 0;  ///< 0: as many as query heads
    std::int64_t head_dim = 0;  ///< 0: hidden / heads
    NormRule norm = {};
};
Sizes read_sizes(ConfigReader& config, const SizeDefaults& defaults);

RopeSizes rope_sizes(const Sizes& sizes);

/// More of transformers' defaults.
struct DecoderDefaults {
    bool tied = false;
    std::int64_t padding = -1;    ///< pad_token_id where the key is missing; below 0: none
    bool has_padding_row = true;  ///< whether the type's embedding heeds a pad_token_id
};
/// Embedding, last norm and head; neither rotary embeddings nor layers. A dropout of the base among the keys
/// that transformers' types have is taken as 0 and said.
DecoderSpec decoder(ConfigReader& config, const Sizes& sizes, const DecoderDefaults& defaults = {});

/// A norm of the rule that all share.
spec::Norm norm(const Sizes& sizes, const std::string& path, std::int64_t size);
/// The path of a layer's module.
std::string layer_path(const Sizes& sizes, std::int64_t layer, const std::string& rest);
/// A norm of the hidden states of one layer.
spec::Norm layer_norm(const Sizes& sizes, std::int64_t layer, const std::string& rest);

struct AttentionBiases {
    bool query_key_value = false, output = false;
};
/// q_proj, k_proj, v_proj and o_proj in `self_attn`; turned by the first rotary embedding, scores scaled by
/// 1 / sqrt(head_dim).
spec::Attention separate_attention(const Sizes& sizes, std::int64_t layer, AttentionBiases biases = {},
                                   const std::string& output = "self_attn.o_proj");
/// The same with q, k and v in one linear.
spec::Attention fused_attention(const Sizes& sizes, std::int64_t layer, const std::string& entry,
                                const std::string& output, AttentionBiases biases = {});
/// Norms of each query and key head.
void add_head_norms(spec::Attention& attention, const Sizes& sizes, std::int64_t layer,
                    const std::string& q_norm = "self_attn.q_norm",
                    const std::string& k_norm = "self_attn.k_norm");
/// The same with weights, and no biases, of each head's own. `apart`: as tensors of their own.
void give_heads_own_norms(spec::Attention& attention, bool apart);
/// One norm over all query heads and one over all key heads, `self_attn.q_norm` and `self_attn.k_norm`.
void add_row_norms(spec::Attention& attention, const Sizes& sizes, std::int64_t layer);

/// gate_proj, up_proj and down_proj in `mlp`; `bias`: on all three.
spec::Mlp gated_mlp(const Sizes& sizes, std::int64_t layer, spec::Activation activation, bool bias = false);
/// The same with gate and up in one linear, gate_up_proj.
spec::Mlp fused_mlp(const Sizes& sizes, std::int64_t layer, spec::Activation activation);
/// Two linears without a gate.
spec::Mlp plain_mlp(const Sizes& sizes, std::int64_t layer, spec::Activation activation, bool bias,
                    const std::string& entry, const std::string& output);

/// Attention, then the MLP or what stands in its place, each behind a norm of its own.
spec::Layer pre_norm_layer(const Sizes& sizes, std::int64_t layer, spec::Attention attention, spec::Block mlp,
                           const std::string& first = "input_layernorm",
                           const std::string& second = "post_attention_layernorm");
/// Each before a norm of its own.
spec::Layer post_norm_layer(const Sizes& sizes, std::int64_t layer, spec::Attention attention, spec::Mlp mlp);

/// Names of the four norms of a layer whose blocks stand between two norms each.
struct SandwichNames {
    const char *before_attention, *after_attention, *before_mlp, *after_mlp;
};
spec::Layer sandwich_layer(const Sizes& sizes, std::int64_t layer, spec::Attention attention, spec::Mlp mlp,
                           const SandwichNames& names);
/// Both blocks read the layer's input, through one norm where both names are one.
spec::Layer parallel_layer(const Sizes& sizes, std::int64_t layer, spec::Attention attention, spec::Mlp mlp,
                           const std::string& first = "input_layernorm",
                           const std::string& second = "input_layernorm");

/// Faults for settings that a type's transformers class acts on and that are not built: each key must be
/// missing, null or false.
void require_off(ConfigReader& config, std::initializer_list<const char*> keys);

}  // namespace qlora::models
