#pragma once

#include <cstdint>
#include <vector>

#include "../config_reader.h"
#include "../rope_config.h"
#include "qlora/models/decoder_spec.h"

/// What the files of this folder put their decoders together from.
namespace qlora::models {

/// The sizes that each config.json has under the same keys.
struct Sizes {
    std::int64_t vocabulary = 0, hidden = 0, inner = 0, layers = 0, max_positions = 0;
    std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
    double eps = 0;
};

/// transformers' defaults for keys that are missing.
struct SizeDefaults {
    std::int64_t max_positions = 2048;
    std::int64_t kv_heads = 0;  ///< 0: as many as query heads
    std::int64_t head_dim = 0;  ///< 0: hidden_size / num_attention_heads
    double eps = 1e-6;
};
Sizes read_sizes(ConfigReader& config, const SizeDefaults& defaults);

/// More of transformers' defaults.
struct DecoderDefaults {
    RopeDefaults rope = {};
    bool tied = false;
    std::int64_t padding = -1;  ///< pad_token_id where the key is missing; below 0: none
};
/// Embedding, rotary positions, last norm and head with llama's paths; no layers.
DecoderSpec decoder(ConfigReader& config, const Sizes& sizes, const DecoderDefaults& defaults = {});

/// When a type's layers look at a window of tokens alone.
enum class WindowRule {
    kAlways,      ///< where sliding_window is not null
    kLayerTypes,  ///< the same, but for layers that `layer_types` excepts
    kFlag         ///< with use_sliding_window, from layer max_window_layers on
};
/// The window of each layer, 0 where it sees all tokens; `layer_types` is heeded.
std::vector<std::int64_t> read_windows(ConfigReader& config, WindowRule rule, const Sizes& sizes);

/// The same from `windows`, what they are without `layer_types`, and the window of a "sliding_attention"
/// layer (0: none is switched on).
std::vector<std::int64_t> heed_layer_types(ConfigReader& config, std::vector<std::int64_t> windows,
                                           std::int64_t window);

struct AttentionBiases {
    bool query_key_value = false, output = false;
};
/// q_proj, k_proj, v_proj and o_proj in `self_attn`.
spec::Attention separate_attention(const Sizes& sizes, std::int64_t layer, AttentionBiases biases = {});
/// gate_proj, up_proj and down_proj in `mlp`.
spec::Mlp gated_mlp(const Sizes& sizes, std::int64_t layer, bool bias = false);
/// Each block behind a norm of its own: input_layernorm, post_attention_layernorm.
spec::Layer pre_norm_layer(const Sizes& sizes, std::int64_t layer, spec::Attention attention, spec::Mlp mlp);

/// Layers that differ in their windows alone.
void add_layers(DecoderSpec& decoder, const Sizes& sizes, const std::vector<std::int64_t>& windows,
                AttentionBiases biases = {});

/// "model.layers.N." and the rest.
std::string layer_path(std::int64_t layer, const std::string& rest);

/// Faults for a dropout in attention and for another activation than silu.
void refuse_unbuilt_settings(ConfigReader& config);

}  // namespace qlora::models
