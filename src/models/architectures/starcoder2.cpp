#include "parts.h"

namespace qlora::models {

/// A llama with LayerNorms, biases and plain MLPs.
DecoderSpec starcoder2(ConfigReader& config) {
    const Sizes sizes =
        read_sizes(config, {.keys = {.eps = "norm_epsilon"},
                            .max_positions = 4096,
                            .kv_heads = 2,
                            .norm = {.eps = 1e-5, .kind = spec::NormKind::kLayer, .bias = true}});
    const bool bias = config.boolean("use_bias", true);
    const spec::Activation activation = config.activation("hidden_act", "gelu_pytorch_tanh");
    DecoderSpec out = decoder(config, sizes, {.tied = true});
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    const std::int64_t window = config.has("sliding_window") ? config.integer("sliding_window", 0) : 0;
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer, {bias, bias});
        attention.window = window;
        out.layers.push_back(
            pre_norm_layer(sizes, layer, std::move(attention),
                           plain_mlp(sizes, layer, activation, bias, "mlp.c_fc", "mlp.c_proj")));
    }
    return out;
}

}  // namespace qlora::models
