#include "windows.h"

namespace qlora::models {

/// A llama with norms of each query and key head, and windows where they are asked for.
DecoderSpec qwen3(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 32768, .kv_heads = 32, .head_dim = 128});
    const bool bias = config.boolean("attention_bias", false);
    const spec::Activation activation = config.activation("hidden_act", "silu");
    DecoderSpec out = decoder(config, sizes);
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    const std::vector<std::int64_t> windows = read_windows(config, WindowRule::kFlag, sizes);
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer, {bias, bias});
        add_head_norms(attention, sizes, layer);
        attention.window = windows.at(static_cast<std::size_t>(layer));
        out.layers.push_back(
            pre_norm_layer(sizes, layer, std::move(attention), gated_mlp(sizes, layer, activation)));
    }
    return out;
}

}  // namespace qlora::models
