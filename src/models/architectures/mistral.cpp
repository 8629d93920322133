#include "windows.h"

namespace qlora::models {

/// A llama with a window of tokens in all layers, unless it is switched off.
DecoderSpec mistral(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 4096 * 32, .kv_heads = 8});
    DecoderSpec out = decoder(config, sizes);
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    add_windowed_layers(out, config, sizes, read_windows(config, WindowRule::kAlways, sizes));
    return out;
}

}  // namespace qlora::models
