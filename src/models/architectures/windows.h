#pragma once

#include <cstdint>
#include <vector>

#include "parts.h"

/// Which layers of a decoder see a window of tokens alone.
namespace qlora::models {

/// When a type's layers look at a window.
enum class WindowRule {
    kAlways,      ///< where sliding_window is not null
    kLayerTypes,  ///< the same, but for layers that `layer_types` excepts
    kFlag         ///< with use_sliding_window, from layer max_window_layers on
};
/// The window of each layer, 0 where it sees all tokens; `layer_types` is heeded.
std::vector<std::int64_t> read_windows(ConfigReader& config, WindowRule rule, const Sizes& sizes);

/// The same from `windows`, what they are without `layer_types`, and the window of a "sliding_attention"
/// layer (0: none is switched on).
std::vector<std::int64_t> heed_layer_types(ConfigReader& config, std::vector<std::int64_t> windows,
                                           std::int64_t window);

/// Types that mix both kinds of layers by a pattern.
struct MixedWindows {
    std::vector<bool> slides;  ///< of each layer
    std::int64_t window = 0;   ///< of those that do

    /// Where those that slide turn by the second rotary embedding.
    std::size_t rope_of(std::int64_t layer) const { return slides[static_cast<std::size_t>(layer)] ? 1 : 0; }
    std::int64_t of(std::int64_t layer) const { return slides[static_cast<std::size_t>(layer)] ? window : 0; }
};
/// `sliding_window_pattern`, which counts where there are no `layer_types`.
std::int64_t read_pattern(ConfigReader& config, std::int64_t fallback);
/// By `layer_types`, else all layers slide but each `full_every`-th; `sliding_window` 4096 unless given.
MixedWindows read_mixed_windows(ConfigReader& config, const Sizes& sizes, std::int64_t full_every);

/// Layers that differ in their windows alone; `hidden_act` is read.
void add_windowed_layers(DecoderSpec& decoder, ConfigReader& config, const Sizes& sizes,
                         const std::vector<std::int64_t>& windows, AttentionBiases biases = {});

}  // namespace qlora::models
