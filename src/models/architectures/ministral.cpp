#include "parts.h"

namespace qlora::models {

/// A mistral whose layers may differ: `layer_types` says which see a window and which see all tokens.
DecoderSpec ministral(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 4096 * 32, .kv_heads = 8});
    if (!config.has("head_dim"))
        config.faults().add("head_dim", "is missing");  // transformers has no default
    DecoderSpec out = decoder(config, sizes);
    const std::vector<std::int64_t> windows = read_windows(config, WindowRule::kLayerTypes, sizes);
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer);
        attention.window = windows.at(static_cast<std::size_t>(layer));
        out.layers.push_back(pre_norm_layer(sizes, layer, std::move(attention), gated_mlp(sizes, layer)));
    }
    refuse_unbuilt_settings(config);
    return out;
}

}  // namespace qlora::models
