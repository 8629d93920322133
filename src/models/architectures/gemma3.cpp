#include <cmath>

#include "gemma_layers.h"
#include "text_part.h"

namespace qlora::models {

/// A gemma2 with norms of each query and key head in the place of the caps, and windows in five of six
/// layers, which turn by a rotary embedding of their own.
DecoderSpec gemma3_text(ConfigReader& config) {
    SizeDefaults defaults = gemma_sizes(131072);
    defaults.vocabulary = 262208;
    defaults.hidden = 2304;
    defaults.inner = 9216;
    defaults.layers = 26;
    defaults.heads = 8;
    const Sizes sizes = read_sizes(config, defaults);
    const bool bias = config.boolean("attention_bias", false);
    require_off(config, {"use_bidirectional_attention"});
    const spec::Activation activation = config.activation("hidden_activation", "gelu_pytorch_tanh");
    const double scale = gemma_scale(config);
    const MixedWindows windows = read_mixed_windows(config, sizes, read_pattern(config, 6));
    DecoderSpec out = decoder(config, sizes, {.tied = true, .padding = 0});
    out.embedding_scale = std::sqrt(static_cast<double>(sizes.hidden));
    out.rounds_embedding_scale = true;
    out.logit_softcap = config.number_or_off("final_logit_softcapping", 0.0);
    if (config.has("attn_logit_softcapping"))
        out.passed_over.emplace_back("attn_logit_softcapping has no effect, in transformers neither");
    const RopesByLayerType ropes = read_ropes_by_layer_type(
        config, rope_sizes(sizes),
        {.full_theta = 1e6, .sliding_theta = 1e4, .sliding_theta_key = "rope_local_base_freq"});
    out.ropes = {ropes.full, ropes.sliding};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer, {bias, bias});
        add_head_norms(attention, sizes, layer);
        attention.scale = scale;
        attention.window = windows.of(layer);
        attention.rope = windows.rope_of(layer);
        out.layers.push_back(sandwich_layer(sizes, layer, std::move(attention),
                                            gated_mlp(sizes, layer, activation), kGemmaNorms));
    }
    return out;
}

/// The text part of a model that also sees images, which leaves the cap of the logits out.
DecoderSpec gemma3(ConfigReader& config) {
    DecoderSpec out = text_part(config, {{"gemma3_text", Json::object()}});
    if (out.logit_softcap > 0) {
        out.passed_over.emplace_back(
            "text_config.final_logit_softcapping has no effect, in transformers neither");
        out.logit_softcap = 0;
    }
    return out;
}

}  // namespace qlora::models
