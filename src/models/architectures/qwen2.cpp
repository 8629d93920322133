#include "parts.h"

namespace qlora::models {

/// A llama with biases on q, k and v, and windows where they are asked for.
DecoderSpec qwen2(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 32768, .kv_heads = 32});
    DecoderSpec out = decoder(config, sizes);
    add_layers(out, sizes, read_windows(config, WindowRule::kFlag, sizes), {.query_key_value = true});
    refuse_unbuilt_settings(config);
    return out;
}

}  // namespace qlora::models
