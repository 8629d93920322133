#include "parts.h"

namespace qlora::models {

/// LayerNorms, learned positions, plain MLPs and linears whose weights are stored as columns (Conv1D).
DecoderSpec gpt2(ConfigReader& config) {
    Sizes sizes = read_sizes(config, {.keys = {.hidden = "n_embd",
                                               .inner = "n_inner",
                                               .layers = "n_layer",
                                               .heads = "n_head",
                                               .kv_heads = nullptr,
                                               .head_dim = nullptr,
                                               .max_positions = "n_positions",
                                               .eps = "layer_norm_epsilon"},
                                      .max_positions = 1024,
                                      .inner_of_hidden = 4,
                                      .norm = {.eps = 1e-5, .kind = spec::NormKind::kLayer, .bias = true}});
    sizes.prefix = "transformer.";
    sizes.layer_prefix = "h.";
    require_off(config, {"add_cross_attention"});
    const spec::Activation activation = config.activation("activation_function", "gelu_new");
    const bool scales = config.boolean("scale_attn_weights", true);
    const bool by_layer = config.boolean("scale_attn_by_inverse_layer_idx", false);
    DecoderSpec out = decoder(config, sizes, {.tied = true, .has_padding_row = false});
    out.embedding = "transformer.wte";
    out.positions = "transformer.wpe";
    out.final_norm.path = "transformer.ln_f";
    out.ignored = {"attn.bias", "attn.masked_bias"};
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
        spec::Attention attention = fused_attention(sizes, layer, "attn.c_attn", "attn.c_proj", {true, true});
        attention.rope.reset();
        if (!scales) attention.scale = 1.0;
        if (by_layer) attention.scale /= static_cast<double>(layer + 1);
        spec::Mlp mlp = plain_mlp(sizes, layer, activation, true, "mlp.c_fc", "mlp.c_proj");
        for (spec::Linear* linear :
             {&attention.entry.front(), &attention.output, &mlp.entry.front(), &mlp.output})
            linear->stored_in_columns = true;
        out.layers.push_back(
            pre_norm_layer(sizes, layer, std::move(attention), std::move(mlp), "ln_1", "ln_2"));
    }
    return out;
}

}  // namespace qlora::models
