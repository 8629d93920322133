#include "experts.h"

namespace qlora::models {

/// A qwen3 with experts in all layers but those that are told to have an MLP; a window, where one is switched
/// on, is every layer's.
DecoderSpec qwen3_moe(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 32768, .kv_heads = 4});
    const bool bias = config.boolean("attention_bias", false);
    const ExpertRule rule =
        read_experts(config, {.count = 128, .chosen = 8}, config.integer("moe_intermediate_size", 768));
    const std::vector<bool> has_experts = read_expert_layers(config, sizes);
    const bool windowed = config.boolean("use_sliding_window", false);
    const bool switched_off = config.json().contains("sliding_window") && !config.has("sliding_window");
    const std::int64_t window = windowed && !switched_off ? config.integer("sliding_window", 4096) : 0;
    DecoderSpec out = decoder(config, sizes);
    read_router_loss(config, 0.001, out);
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer, {bias, bias});
        add_head_norms(attention, sizes, layer);
        attention.window = window;
        spec::Block inner = gated_mlp(sizes, layer, rule.activation);
        if (has_experts[static_cast<std::size_t>(layer)]) inner = experts(sizes, layer, rule);
        out.layers.push_back(pre_norm_layer(sizes, layer, std::move(attention), std::move(inner)));
    }
    return out;
}

}  // namespace qlora::models
