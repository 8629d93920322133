#include "parts.h"

namespace qlora::models {

/// A llama with a window of tokens in all layers, unless it is switched off.
DecoderSpec mistral(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 4096 * 32, .kv_heads = 8});
    DecoderSpec out = decoder(config, sizes);
    add_layers(out, sizes, read_windows(config, WindowRule::kAlways, sizes));
    refuse_unbuilt_settings(config);
    return out;
}

}  // namespace qlora::models
