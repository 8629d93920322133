#include "experts.h"
#include "windows.h"

namespace qlora::models {
namespace {

/// Each other layer below `max_window_layers` has the window where one is switched on.
std::vector<std::int64_t> alternate_windows(ConfigReader& config, const Sizes& sizes) {
    const bool on = config.boolean("use_sliding_window", false) && config.has("sliding_window");
    const std::int64_t window = on ? config.integer("sliding_window", std::nullopt) : 0;
    const std::int64_t end = config.integer("max_window_layers", 28, 0);
    std::vector<std::int64_t> windows;
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer)
        windows.push_back(layer % 2 == 0 && layer < end ? window : 0);
    return heed_layer_types(config, std::move(windows), window);
}

/// The expert that sees every token, behind a gate of its own.
void add_shared_expert(spec::Experts& experts, const Sizes& sizes, std::int64_t layer, std::int64_t inner,
                       spec::Activation activation) {
    Sizes shared = sizes;
    shared.inner = inner;
    experts.shared = gated_mlp(shared, layer, activation);
    const auto rename = [&](spec::Linear& linear) {
        const std::string last = linear.path.substr(linear.path.rfind('.') + 1);
        linear.path = layer_path(sizes, layer, "mlp.shared_expert." + last);
    };
    for (spec::Linear& linear : experts.shared->entry) rename(linear);
    rename(experts.shared->output);
    experts.shared_gate = {
        .path = layer_path(sizes, layer, "mlp.shared_expert_gate"), .in = sizes.hidden, .out = 1};
}

}  // namespace

/// A qwen2 with experts, one of them for all tokens, in all layers but those that are told to have an MLP.
DecoderSpec qwen2_moe(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 32768, .kv_heads = 16});
    const bool bias = config.boolean("qkv_bias", true);
    const ExpertRule rule =
        read_experts(config, {.count = 60, .chosen = 4}, config.integer("moe_intermediate_size", 1408));
    const std::int64_t shared_inner = config.integer("shared_expert_intermediate_size", 5632);
    const std::vector<bool> has_experts = read_expert_layers(config, sizes);
    const std::vector<std::int64_t> windows = alternate_windows(config, sizes);
    DecoderSpec out = decoder(config, sizes);
    read_router_loss(config, 0.001, out);
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        const auto index = static_cast<std::size_t>(layer);
        spec::Attention attention = separate_attention(sizes, layer, {.query_key_value = bias});
        attention.window = windows[index];
        spec::Block inner = gated_mlp(sizes, layer, rule.activation);
        if (has_experts[index]) {
            spec::Experts all = experts(sizes, layer, rule);
            all.known_by_linears = false;
            add_shared_expert(all, sizes, layer, shared_inner, rule.activation);
            inner = std::move(all);
        }
        out.layers.push_back(pre_norm_layer(sizes, layer, std::move(attention), std::move(inner)));
    }
    return out;
}

}  // namespace qlora::models
