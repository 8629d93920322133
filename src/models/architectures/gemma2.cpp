#include <cmath>

#include "gemma_layers.h"

namespace qlora::models {

SizeDefaults gemma_sizes(std::int64_t max_positions) {
    return {.max_positions = max_positions,
            .kv_heads = 4,
            .head_dim = 256,
            .norm = {.kind = spec::NormKind::kRmsLate, .offset = true}};
}

double gemma_scale(ConfigReader& config) {
    return 1.0 / std::sqrt(config.number("query_pre_attn_scalar", 256.0));
}

/// A gemma with norms on both sides of each block, caps on scores and logits, and windows in every other
/// layer.
DecoderSpec gemma2(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, gemma_sizes(8192));
    const bool bias = config.boolean("attention_bias", false);
    require_off(config, {"use_bidirectional_attention"});
    const spec::Activation activation = config.activation("hidden_activation", "gelu_pytorch_tanh");
    const double scale = gemma_scale(config), softcap = config.number_or_off("attn_logit_softcapping", 50.0);
    const MixedWindows windows = read_mixed_windows(config, sizes, 2);
    DecoderSpec out = decoder(config, sizes, {.tied = true, .padding = 0});
    out.embedding_scale = std::sqrt(static_cast<double>(sizes.hidden));
    out.rounds_embedding_scale = true;
    out.logit_softcap = config.number_or_off("final_logit_softcapping", 30.0);
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer, {bias, bias});
        attention.scale = scale;
        attention.softcap = softcap;
        attention.window = windows.of(layer);
        out.layers.push_back(sandwich_layer(sizes, layer, std::move(attention),
                                            gated_mlp(sizes, layer, activation), kGemmaNorms));
    }
    return out;
}

}  // namespace qlora::models
