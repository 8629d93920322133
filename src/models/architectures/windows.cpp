#include "windows.h"

#include <algorithm>
#include <set>

namespace qlora::models {
namespace {

constexpr std::int64_t kUsualWindow = 4096;  // transformers' default

/// The sliding window of each layer as it is where `layer_types` is absent; 0: the layer has none.
std::vector<std::int64_t> default_windows(ConfigReader& config, WindowRule rule, std::int64_t layers,
                                          std::int64_t& window) {
    std::vector<std::int64_t> windows(static_cast<std::size_t>(layers), 0);
    const bool asked = rule != WindowRule::kFlag || config.boolean("use_sliding_window", false);
    const bool switched_off = config.json().contains("sliding_window") && !config.has("sliding_window");
    if (!asked || switched_off) return windows;
    window = config.integer("sliding_window", kUsualWindow);
    const std::int64_t first = rule == WindowRule::kFlag ? config.integer("max_window_layers", 28, 0) : 0;
    for (std::int64_t layer = first; layer < layers; ++layer)
        windows[static_cast<std::size_t>(layer)] = window;
    return windows;
}

std::string place_of(std::size_t layer) {
    return "layer_types[" + std::to_string(layer) + "]";
}

/// Which layers slide by `layer_types`; without it, or after a fault in it as a whole, as `usual` says.
std::vector<bool> read_layer_types(ConfigReader& config, std::vector<bool> usual) {
    if (!config.has("layer_types")) return usual;
    const Json& types = config.json().at("layer_types");
    if (!types.is_array() || types.size() != usual.size()) {
        config.faults().add("layer_types", "must list one entry for each of the layers");
        return usual;
    }
    std::set<Json> unknown;
    for (std::size_t layer = 0; layer < usual.size(); ++layer) {
        const bool full = types[layer] == "full_attention";
        if (!full && types[layer] != "sliding_attention") {
            if (!unknown.insert(types[layer]).second) continue;  // each is said once
            config.faults().add(place_of(layer), types[layer].dump() +
                                                     " is not supported; use full_attention or "
                                                     "sliding_attention");
        } else {
            usual[layer] = !full;
        }
    }
    return usual;
}

}  // namespace

std::vector<std::int64_t> heed_layer_types(ConfigReader& config, std::vector<std::int64_t> windows,
                                           std::int64_t window) {
    if (!config.has("layer_types")) return windows;
    std::vector<bool> usual;
    for (const std::int64_t each : windows) usual.push_back(each != 0);
    const std::vector<bool> slides = read_layer_types(config, std::move(usual));
    const auto first =
        static_cast<std::size_t>(std::find(slides.begin(), slides.end(), true) - slides.begin());
    for (std::size_t layer = 0; layer < windows.size(); ++layer) {
        if (layer == first && window == 0) {
            config.faults().add(place_of(layer),
                                "is sliding_attention, but no sliding_window is switched on");
        }
        windows[layer] = slides[layer] ? window : 0;
    }
    return windows;
}

std::vector<std::int64_t> read_windows(ConfigReader& config, WindowRule rule, const Sizes& sizes) {
    std::int64_t window = 0;
    const std::vector<std::int64_t> usual = default_windows(config, rule, sizes.layers, window);
    std::vector<std::int64_t> windows = heed_layer_types(config, usual, window);
    for (std::size_t layer = 0; layer < windows.size(); ++layer) {
        if (rule != WindowRule::kAlways || windows[layer] == usual[layer]) continue;
        config.faults().add(place_of(layer), "is full_attention, but all layers of a " +
                                                 config.text("model_type", "") +
                                                 " model have the sliding_window");
        break;
    }
    return windows;
}

void add_windowed_layers(DecoderSpec& decoder, ConfigReader& config, const Sizes& sizes,
                         const std::vector<std::int64_t>& windows, AttentionBiases biases) {
    const spec::Activation activation = config.activation("hidden_act", "silu");
    for (const std::int64_t window : windows) {
        const auto layer = static_cast<std::int64_t>(decoder.layers.size());
        spec::Attention attention = separate_attention(sizes, layer, biases);
        attention.window = window;
        decoder.layers.push_back(
            pre_norm_layer(sizes, layer, std::move(attention), gated_mlp(sizes, layer, activation)));
    }
}

std::int64_t read_pattern(ConfigReader& config, std::int64_t fallback) {
    return config.has("layer_types") ? fallback : config.integer("sliding_window_pattern", fallback);
}

MixedWindows read_mixed_windows(ConfigReader& config, const Sizes& sizes, std::int64_t full_every) {
    std::vector<bool> usual;
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer)
        usual.push_back((layer + 1) % full_every != 0);
    MixedWindows out{.slides = read_layer_types(config, std::move(usual))};
    const bool any = std::find(out.slides.begin(), out.slides.end(), true) != out.slides.end();
    const bool switched_off = config.json().contains("sliding_window") && !config.has("sliding_window");
    if (any && switched_off) {
        config.faults().add("sliding_window",
                            "is null, but some layers are sliding_attention; give the window, or make all "
                            "layer_types full_attention");
    }
    if (!switched_off) out.window = config.integer("sliding_window", kUsualWindow);
    return out;
}

}  // namespace qlora::models
