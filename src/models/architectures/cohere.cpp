#include "windows.h"

namespace qlora::models {
namespace {

SizeDefaults cohere_sizes() {
    return {.keys = {.eps = "layer_norm_eps"},
            .max_positions = 8192,
            .norm = {.eps = 1e-5, .kind = spec::NormKind::kLayer}};
}

DecoderSpec cohere_decoder(ConfigReader& config, const Sizes& sizes) {
    DecoderSpec out = decoder(config, sizes, {.tied = true, .padding = 0});
    out.logit_scale = config.number("logit_scale", 0.0625);
    return out;
}

}  // namespace

/// Both blocks read the layer's input through one LayerNorm without bias; neighbouring dimensions turn
/// together.
DecoderSpec cohere(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, cohere_sizes());
    const bool bias = config.boolean("attention_bias", false), qk_norm = config.boolean("use_qk_norm", false);
    const spec::Activation activation = config.activation("hidden_act", "silu");
    DecoderSpec out = cohere_decoder(config, sizes);
    out.ropes = {read_rope(config, rope_sizes(sizes),
                           {.theta = 5e5, .pairs = true, .rounding = spec::Rope::Rounding::kAngles})};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer, {bias, bias});
        if (qk_norm) {
            add_head_norms(attention, sizes, layer);
            give_heads_own_norms(attention, false);
        }
        out.layers.push_back(
            parallel_layer(sizes, layer, std::move(attention), gated_mlp(sizes, layer, activation)));
    }
    return out;
}

/// A cohere with windows in three of four layers, which alone know positions.
DecoderSpec cohere2(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, cohere_sizes());
    const bool bias = config.boolean("attention_bias", false);
    const spec::Activation activation = config.activation("hidden_act", "silu");
    const MixedWindows windows = read_mixed_windows(config, sizes, read_pattern(config, 4));
    DecoderSpec out = cohere_decoder(config, sizes);
    out.ropes = {
        read_rope(config, rope_sizes(sizes), {.pairs = true, .rounding = spec::Rope::Rounding::kAngles})};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer, {bias, bias});
        attention.window = windows.of(layer);
        if (attention.window == 0) attention.rope.reset();
        out.layers.push_back(
            parallel_layer(sizes, layer, std::move(attention), gated_mlp(sizes, layer, activation)));
    }
    return out;
}

}  // namespace qlora::models
