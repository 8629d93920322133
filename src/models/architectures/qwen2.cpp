#include "windows.h"

namespace qlora::models {

/// A llama with biases on q, k and v, and windows where they are asked for.
DecoderSpec qwen2(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 32768, .kv_heads = 32});
    DecoderSpec out = decoder(config, sizes);
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    add_windowed_layers(out, config, sizes, read_windows(config, WindowRule::kFlag, sizes),
                        {.query_key_value = true});
    return out;
}

}  // namespace qlora::models
