#include <cmath>

#include "parts.h"

namespace qlora::models {

/// A llama with offset norms, a GELU and an embedding scaled by the root of its size.
DecoderSpec gemma(ConfigReader& config) {
    const Sizes sizes = read_sizes(config, {.max_positions = 8192,
                                            .kv_heads = 16,
                                            .head_dim = 256,
                                            .norm = {.kind = spec::NormKind::kRmsLate, .offset = true}});
    const bool bias = config.boolean("attention_bias", false);
    require_off(config, {"use_bidirectional_attention"});
    // Old files say "gelu" and mean the tanh form.
    const bool is_legacy = config.text("hidden_act", "") == "gelu";
    const spec::Activation activation =
        is_legacy ? spec::Activation::kGeluTanh : config.activation("hidden_act", "gelu_pytorch_tanh");
    DecoderSpec out = decoder(config, sizes, {.tied = true, .padding = 0});
    out.embedding_scale = std::sqrt(static_cast<double>(sizes.hidden));
    out.rounds_embedding_scale = true;
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        out.layers.push_back(pre_norm_layer(sizes, layer, separate_attention(sizes, layer, {bias, bias}),
                                            gated_mlp(sizes, layer, activation)));
    }
    return out;
}

}  // namespace qlora::models
