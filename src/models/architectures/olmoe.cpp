#include "experts.h"

namespace qlora::models {

/// A llama with experts in all layers and norms over all query and all key heads.
DecoderSpec olmoe(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 4096, .norm = {.eps = 1e-5}});
    const bool bias = config.boolean("attention_bias", false);
    if (config.has("clip_qkv"))
        config.faults().add("clip_qkv", "clipping of q, k and v is not built; only null is supported");
    const ExpertRule rule = read_experts(config, {.count = 64, .chosen = 8}, sizes.inner);
    DecoderSpec out = decoder(config, sizes, {.padding = 1});
    read_router_loss(config, 0.01, out);
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer, {bias, bias});
        add_row_norms(attention, sizes, layer);
        out.layers.push_back(pre_norm_layer(sizes, layer, std::move(attention), experts(sizes, layer, rule)));
    }
    return out;
}

}  // namespace qlora::models
