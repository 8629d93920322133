#include "windows.h"

namespace qlora::models {

/// A norm after each block in the place of the one before it, norms of each query and key head, and windows
/// by a pattern; where layers have windows, those without know no positions.
DecoderSpec exaone4(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 2048, .kv_heads = 32, .norm = {.eps = 1e-5}});
    const spec::Activation activation = config.activation("hidden_act", "silu");
    const bool has_windows = !config.json().contains("sliding_window") || config.has("sliding_window");
    const bool has_rule =
        config.has("layer_types") ||
        (has_windows && !config.json().value("sliding_window_pattern", Json(4)).is_string());
    if (!has_rule) {
        config.faults().add("layer_types",
                            "is missing; transformers makes it from a whole number in "
                            "sliding_window_pattern alone");
    }
    MixedWindows windows{.slides = std::vector<bool>(static_cast<std::size_t>(sizes.layers))};
    if (has_rule) windows = read_mixed_windows(config, sizes, read_pattern(config, 4));
    DecoderSpec out = decoder(config, sizes);
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer);
        add_head_norms(attention, sizes, layer);
        attention.window = windows.of(layer);
        if (has_windows && !windows.slides[static_cast<std::size_t>(layer)]) attention.rope.reset();
        out.layers.push_back(
            post_norm_layer(sizes, layer, std::move(attention), gated_mlp(sizes, layer, activation)));
    }
    return out;
}

}  // namespace qlora::models
