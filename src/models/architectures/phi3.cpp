#include "parts.h"

namespace qlora::models {

/// A llama whose first linears are fused. Of longer texts (longrope) and of a rotation of a part of each head
/// `rope_scaling` and `partial_rotary_factor` tell.
DecoderSpec phi3(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 4096, .norm = {.eps = 1e-5}});
    const spec::Activation activation = config.activation("hidden_act", "silu");
    DecoderSpec out = decoder(config, sizes, {.padding = 32000});
    out.ropes = {read_rope(config, rope_sizes(sizes),
                           {.partial = 1.0, .original_positions = 4096, .only_longrope = true})};
    const std::int64_t window = config.has("sliding_window") ? config.integer("sliding_window", 0) : 0;
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = fused_attention(sizes, layer, "self_attn.qkv_proj", "self_attn.o_proj");
        attention.window = window;
        out.layers.push_back(
            pre_norm_layer(sizes, layer, std::move(attention), fused_mlp(sizes, layer, activation)));
    }
    return out;
}

}  // namespace qlora::models
