#include "parts.h"

namespace qlora::models {

/// LayerNorms, q, k and v of each head side by side in one linear, a plain MLP that reads the layer's input
/// unless `use_parallel_residual` is false, and a rotation of a part of each head.
DecoderSpec gpt_neox(ConfigReader& config) {
    Sizes sizes =
        read_sizes(config, {.keys = {.kv_heads = nullptr, .head_dim = nullptr, .eps = "layer_norm_eps"},
                            .max_positions = 2048,
                            .norm = {.eps = 1e-5, .kind = spec::NormKind::kLayer, .bias = true}});
    sizes.prefix = "gpt_neox.";
    const bool bias = config.boolean("attention_bias", true);
    const bool parallel = config.boolean("use_parallel_residual", true);
    const spec::Activation activation = config.activation("hidden_act", "gelu");
    DecoderSpec out = decoder(config, sizes, {.has_padding_row = false});
    out.embedding = "gpt_neox.embed_in";
    out.final_norm.path = "gpt_neox.final_layer_norm";
    out.renames = {{.module = "lm_head.", .disk = "embed_out."}};
    out.ignored = {"attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"};
    out.ropes = {read_rope(config, rope_sizes(sizes),
                           {.theta_key = "rotary_emb_base", .partial = 0.25, .partial_key = "rotary_pct"})};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention =
            fused_attention(sizes, layer, "attention.query_key_value", "attention.dense", {bias, bias});
        attention.layout = spec::Attention::Layout::kPerHead;
        spec::Layer made = pre_norm_layer(
            sizes, layer, std::move(attention),
            plain_mlp(sizes, layer, activation, true, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"));
        made.parallel = parallel;
        out.layers.push_back(std::move(made));
    }
    return out;
}

}  // namespace qlora::models
