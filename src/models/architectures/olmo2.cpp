#include "windows.h"

namespace qlora::models {
namespace {

Sizes olmo_sizes(ConfigReader& config) {
    return read_sizes(config,
                      {.max_positions = 2048, .norm = {.eps = 1e-5, .kind = spec::NormKind::kRmsLate}});
}

/// A norm after each block in the place of the one before it, and norms over all query and all key heads.
spec::Layer olmo_layer(const Sizes& sizes, std::int64_t layer, spec::Attention attention,
                       spec::Activation activation) {
    add_row_norms(attention, sizes, layer);
    return post_norm_layer(sizes, layer, std::move(attention), gated_mlp(sizes, layer, activation));
}

}  // namespace

DecoderSpec olmo2(ConfigReader& config) {
    const Sizes sizes = olmo_sizes(config);
    const bool bias = config.boolean("attention_bias", false);
    const spec::Activation activation = config.activation("hidden_act", "silu");
    DecoderSpec out = decoder(config, sizes, {.padding = 1});
    out.ropes = {read_rope(config, rope_sizes(sizes), {.rounding = spec::Rope::Rounding::kNothing})};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        out.layers.push_back(
            olmo_layer(sizes, layer, separate_attention(sizes, layer, {bias, bias}), activation));
    }
    return out;
}

/// An olmo2 with windows in three of four layers, which turn by a rotary embedding of their own.
DecoderSpec olmo3(ConfigReader& config) {
    const Sizes sizes = olmo_sizes(config);
    const bool bias = config.boolean("attention_bias", false);
    const spec::Activation activation = config.activation("hidden_act", "silu");
    const MixedWindows windows = read_mixed_windows(config, sizes, 4);
    DecoderSpec out = decoder(config, sizes, {.padding = 1});
    const RopesByLayerType ropes =
        read_ropes_by_layer_type(config, rope_sizes(sizes), {.full_theta = 5e5, .sliding_theta = 5e5});
    out.ropes = {ropes.full, ropes.sliding};
    for (spec::Rope& rope : out.ropes) rope.rounding = spec::Rope::Rounding::kNothing;
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer, {bias, bias});
        attention.window = windows.of(layer);
        attention.rope = windows.rope_of(layer);
        out.layers.push_back(olmo_layer(sizes, layer, std::move(attention), activation));
    }
    return out;
}

}  // namespace qlora::models
