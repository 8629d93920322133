#include <cmath>

#include "parts.h"

namespace qlora::models {

/// A granite that multiplies its logits, with the usual scale of scores unless the file gives another and,
/// with `use_post_norm`, a norm after each block too.
DecoderSpec hyperclovax(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 2048});
    const bool bias = config.boolean("attention_bias", false), mlp_bias = config.boolean("mlp_bias", false);
    const bool post_norm = config.boolean("use_post_norm", true);
    const spec::Activation activation = config.activation("hidden_act", "silu");
    const double scale =
        config.number("attention_multiplier", 1.0 / std::sqrt(static_cast<double>(sizes.head_dim)));
    const double multiplier = config.number("residual_multiplier", 1.0);
    DecoderSpec out = decoder(config, sizes);
    out.embedding_scale = config.number("embedding_multiplier", 1.0);
    out.logit_scale = config.number("logits_scaling", 1.0);
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer, {bias, bias});
        attention.scale = scale;
        spec::Layer made =
            pre_norm_layer(sizes, layer, std::move(attention), gated_mlp(sizes, layer, activation, mlp_bias));
        for (spec::Branch& branch : made.branches) branch.multiplier = multiplier;
        if (post_norm) {
            made.branches[0].post = layer_norm(sizes, layer, "post_norm1");
            made.branches[1].post = layer_norm(sizes, layer, "post_norm2");
        }
        out.layers.push_back(std::move(made));
    }
    return out;
}

}  // namespace qlora::models
