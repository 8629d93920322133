#include <algorithm>

#include "windows.h"

namespace qlora::models {
namespace {

/// Which layers turn q and k by their positions: `no_rope_layers` (1: it does), else all but each n-th.
std::vector<bool> rotating_layers(ConfigReader& config, std::int64_t layers) {
    const std::int64_t interval = config.integer("no_rope_layer_interval", 4);
    std::vector<bool> out;
    for (std::int64_t layer = 0; layer < layers; ++layer) out.push_back((layer + 1) % interval != 0);
    if (!config.has("no_rope_layers")) return out;
    const Json& listed = config.json().at("no_rope_layers");
    const auto is_flag = [](const Json& flag) { return flag == 0 || flag == 1; };
    if (!listed.is_array() || listed.size() != out.size() ||
        !std::all_of(listed.begin(), listed.end(), is_flag)) {
        config.faults().add("no_rope_layers", "must list 0 or 1 for each of the layers");
        return out;
    }
    for (std::size_t layer = 0; layer < out.size(); ++layer) out[layer] = listed[layer] == 1;
    return out;
}

}  // namespace

/// A llama of which some layers know no positions; those have the window where one is switched on.
DecoderSpec smollm3(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 32768, .kv_heads = 4});
    DecoderSpec out = decoder(config, sizes, {.tied = true, .padding = 128004});
    out.ropes = {read_rope(config, rope_sizes(sizes), {.theta = 2e6})};
    const spec::Activation activation = config.activation("hidden_act", "silu");
    const bool bias = config.boolean("attention_bias", false), mlp_bias = config.boolean("mlp_bias", false);
    const std::vector<bool> rotates = rotating_layers(config, sizes.layers);
    const bool has_window = config.boolean("use_sliding_window", false) && config.has("sliding_window");
    const std::int64_t window = has_window ? config.integer("sliding_window", std::nullopt) : 0;
    std::vector<std::int64_t> windows;
    for (const bool turns : rotates) windows.push_back(turns ? 0 : window);
    windows = heed_layer_types(config, std::move(windows), window);
    for (std::size_t layer = 0; layer < windows.size(); ++layer) {
        const auto index = static_cast<std::int64_t>(layer);
        spec::Attention attention = separate_attention(sizes, index, {bias, bias});
        if (!rotates[layer]) attention.rope.reset();
        attention.window = windows[layer];
        out.layers.push_back(pre_norm_layer(sizes, index, std::move(attention),
                                            gated_mlp(sizes, index, activation, mlp_bias)));
    }
    return out;
}

}  // namespace qlora::models
