#include "windows.h"

namespace qlora::models {

/// A mistral whose layers may differ: `layer_types` says which see a window and which see all tokens.
DecoderSpec ministral(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 4096 * 32, .kv_heads = 8});
    if (!config.has("head_dim"))
        config.faults().add("head_dim", "is missing");  // transformers has no default
    DecoderSpec out = decoder(config, sizes);
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    add_windowed_layers(out, config, sizes, read_windows(config, WindowRule::kLayerTypes, sizes));
    return out;
}

}  // namespace qlora::models
