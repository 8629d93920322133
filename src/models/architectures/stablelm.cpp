#include "parts.h"

namespace qlora::models {

/// A llama with LayerNorms and a rotation of a part of each head; with `use_parallel_residual` both blocks
/// read the layer's input through one norm.
DecoderSpec stablelm(ConfigReader& config) {
    const Sizes sizes =
        read_sizes(config, {.keys = {.head_dim = nullptr, .eps = "layer_norm_eps"},
                            .max_positions = 4096,
                            .kv_heads = 32,
                            .norm = {.eps = 1e-5, .kind = spec::NormKind::kLayer, .bias = true}});
    const bool bias = config.boolean("use_qkv_bias", false);
    const bool parallel = config.boolean("use_parallel_residual", false);
    const bool qk_norm = config.boolean("qk_layernorm", false);
    const spec::Activation activation = config.activation("hidden_act", "silu");
    DecoderSpec out = decoder(config, sizes);
    out.ropes = {read_rope(config, rope_sizes(sizes), {.partial = 0.25})};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer, {.query_key_value = bias});
        if (qk_norm) {
            add_head_norms(attention, sizes, layer, "self_attn.q_layernorm", "self_attn.k_layernorm");
            give_heads_own_norms(attention, true);
        }
        spec::Mlp mlp = gated_mlp(sizes, layer, activation);
        out.layers.push_back(parallel ? parallel_layer(sizes, layer, std::move(attention), std::move(mlp))
                                      : pre_norm_layer(sizes, layer, std::move(attention), std::move(mlp)));
    }
    return out;
}

}  // namespace qlora::models
