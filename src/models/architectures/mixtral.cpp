#include "experts.h"

namespace qlora::models {

/// A mistral without a window unless one is given, with experts in all layers. In files the module `mlp` is
/// `block_sparse_moe`.
DecoderSpec mixtral(ConfigReader& config) {
    const Sizes sizes =
        read_sizes(config, {.max_positions = 4096 * 32, .kv_heads = 8, .norm = {.eps = 1e-5}});
    ExpertRule rule = read_experts(config, {.count = 8, .chosen = 2}, sizes.inner);
    rule.renormalises = true;
    rule.rounds_weights = false;
    if (zero_or_more(config, "router_jitter_noise", 0.0) != 0)
        config.faults().add("router_jitter_noise",
                            "noise on the router's input is not built; only 0 is supported");
    DecoderSpec out = decoder(config, sizes);
    read_router_loss(config, 0.001, out);
    out.ropes = {read_rope(config, rope_sizes(sizes), {.theta = 1e6})};
    const std::int64_t window = config.has("sliding_window") ? config.integer("sliding_window", 0) : 0;
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer);
        attention.window = window;
        out.layers.push_back(
            pre_norm_layer(sizes, layer, std::move(attention),
                           experts(sizes, layer, rule, {.gate = "w1", .up = "w3", .down = "w2"})));
        out.renames.push_back(
            {layer_path(sizes, layer, "mlp."), layer_path(sizes, layer, "block_sparse_moe.")});
    }
    return out;
}

}  // namespace qlora::models
