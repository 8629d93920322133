#include "windows.h"

namespace qlora::models {

/// A llama whose rotary embedding is stretched by yarn; beyond the length that it was trained on before that,
/// queries would be scaled by their positions.
DecoderSpec ministral3(ConfigReader& config) {
    const Sizes sizes =
        read_sizes(config, {.max_positions = 262144, .kv_heads = 8, .head_dim = 128, .norm = {.eps = 1e-5}});
    DecoderSpec out = decoder(config, sizes, {.padding = 11});
    const Json yarn = {{"rope_type", "yarn"},
                       {"rope_theta", 1e6},
                       {"factor", 16.0},
                       {"original_max_position_embeddings", 16384},
                       {"beta_fast", 32.0},
                       {"beta_slow", 1.0},
                       {"mscale", 1.0},
                       {"mscale_all_dim", 1.0},
                       {"llama_4_scaling_beta", 0.1}};
    out.ropes = {read_rope(config, rope_sizes(sizes), {.scales_queries = true, .section = yarn})};
    const std::int64_t window = config.has("sliding_window") ? config.integer("sliding_window", 0) : 0;
    add_windowed_layers(out, config, sizes,
                        std::vector<std::int64_t>(static_cast<std::size_t>(sizes.layers), window));
    return out;
}

}  // namespace qlora::models
