#include "parts.h"

namespace qlora::models {
namespace {

/// q, k and v in one linear.
spec::Attention fused_attention(const Sizes& sizes, std::int64_t layer) {
    spec::Attention out = separate_attention(sizes, layer);
    std::int64_t columns = 0;
    for (const spec::Linear& linear : out.entry) columns += linear.out;
    out.entry = {{layer_path(layer, "self_attn.qkv_proj"), sizes.hidden, columns}};
    return out;
}

/// gate and up in one linear.
spec::Mlp fused_mlp(const Sizes& sizes, std::int64_t layer) {
    spec::Mlp out = gated_mlp(sizes, layer);
    out.entry = {{layer_path(layer, "mlp.gate_up_proj"), sizes.hidden, 2 * sizes.inner}};
    return out;
}

}  // namespace

/// A llama whose first linears are fused, and whose scaled rope is longrope.
DecoderSpec phi3(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 4096, .eps = 1e-5});
    DecoderSpec out = decoder(
        config, sizes,
        {.rope = {.partial = 1.0, .original_positions = 4096, .only_longrope = true}, .padding = 32000});
    for (const char* key : {"resid_pdrop", "embd_pdrop"}) {
        if (config.has(key) && config.json().at(key) != 0 && config.json().at(key) != 0.0)
            out.passed_over.push_back(std::string(key) + " is taken as 0");
    }
    const std::int64_t window = config.has("sliding_window") ? config.integer("sliding_window", 0) : 0;
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = fused_attention(sizes, layer);
        attention.window = window;
        out.layers.push_back(pre_norm_layer(sizes, layer, std::move(attention), fused_mlp(sizes, layer)));
    }
    refuse_unbuilt_settings(config);
    return out;
}

}  // namespace qlora::models
