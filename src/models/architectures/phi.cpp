#include "parts.h"

namespace qlora::models {

/// Both blocks read the layer's input through one LayerNorm; biases everywhere, that of the head too, plain
/// MLPs, and a rotation of a part of each head.
DecoderSpec phi(ConfigReader& config) {
    const Sizes sizes =
        read_sizes(config, {.keys = {.eps = "layer_norm_eps"},
                            .max_positions = 2048,
                            .norm = {.eps = 1e-5, .kind = spec::NormKind::kLayer, .bias = true}});
    const bool qk_norm = config.boolean("qk_layernorm", false);
    const spec::Activation activation = config.activation("hidden_act", "gelu_new");
    DecoderSpec out = decoder(config, sizes);
    out.final_norm.path = "model.final_layernorm";
    out.head.bias = true;
    out.ropes = {read_rope(config, rope_sizes(sizes), {.partial = 0.5})};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = separate_attention(sizes, layer, {true, true}, "self_attn.dense");
        if (qk_norm)
            add_head_norms(attention, sizes, layer, "self_attn.q_layernorm", "self_attn.k_layernorm");
        out.layers.push_back(parallel_layer(sizes, layer, std::move(attention),
                                            plain_mlp(sizes, layer, activation, true, "mlp.fc1", "mlp.fc2")));
    }
    return out;
}

}  // namespace qlora::models
