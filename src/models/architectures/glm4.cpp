#include "parts.h"

namespace qlora::models {

/// A llama with norms on both sides of each block, gate and up in one linear, and half of each head turning
/// by neighbouring dimensions.
DecoderSpec glm4(ConfigReader& config) {
    const Sizes sizes = read_sizes(
        config, {.max_positions = 131072, .kv_heads = 2, .head_dim = 128, .norm = {.eps = 1.5625e-7}});
    const bool bias = config.boolean("attention_bias", true);
    const spec::Activation activation = config.activation("hidden_act", "silu");
    DecoderSpec out = decoder(config, sizes, {.padding = 151329});
    out.ropes = {read_rope(config, rope_sizes(sizes), {.partial = 0.5, .pairs = true})};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        out.layers.push_back(sandwich_layer(sizes, layer,
                                            separate_attention(sizes, layer, {.query_key_value = bias}),
                                            fused_mlp(sizes, layer, activation),
                                            {"input_layernorm", "post_self_attn_layernorm",
                                             "post_attention_layernorm", "post_mlp_layernorm"}));
    }
    return out;
}

}  // namespace qlora::models
