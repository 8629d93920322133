#include "parts.h"

namespace qlora::models {

DecoderSpec llama(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 2048});
    const bool bias = config.boolean("attention_bias", false), mlp_bias = config.boolean("mlp_bias", false);
    const spec::Activation activation = config.activation("hidden_act", "silu");
    DecoderSpec out = decoder(config, sizes);
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        out.layers.push_back(pre_norm_layer(sizes, layer, separate_attention(sizes, layer, {bias, bias}),
                                            gated_mlp(sizes, layer, activation, mlp_bias)));
    }
    return out;
}

}  // namespace qlora::models
