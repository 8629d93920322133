#include "parts.h"

namespace qlora::models {

/// A llama with four multipliers: of the embedding, of what each block adds, of the scores (in the place of
/// 1 / sqrt(head_dim)) and, as a divisor, of the logits.
DecoderSpec granite(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 2048});
    const bool bias = config.boolean("attention_bias", false), mlp_bias = config.boolean("mlp_bias", false);
    const spec::Activation activation = config.activation("hidden_act", "silu");
    const double scale = config.number("attention_multiplier", 1.0),
                 multiplier = config.number("residual_multiplier", 1.0);
    DecoderSpec out = decoder(config, sizes);
    out.embedding_scale = config.number("embedding_multiplier", 1.0);
    out.logit_scale = 1.0 / config.number("logits_scaling", 1.0);
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer, {bias, bias});
        attention.scale = scale;
        out.layers.push_back(pre_norm_layer(sizes, layer, std::move(attention),
                                            gated_mlp(sizes, layer, activation, mlp_bias)));
        for (spec::Branch& branch : out.layers.back().branches) branch.multiplier = multiplier;
    }
    return out;
}

}  // namespace qlora::models
