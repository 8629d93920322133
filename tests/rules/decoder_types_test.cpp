#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "qlora/core/error.h"
#include "qlora/models/decoder_spec.h"

// What each type's file makes of a config.json with the sizes alone: transformers' defaults. A line says what
// a branch of a layer is, read from left to right as the stream goes through it.
namespace qlora::models {
namespace {

std::string last_part(const std::string& path) {
    return path.substr(path.rfind('.') + 1);
}

std::string number(double value) {
    std::ostringstream out;
    out.precision(6);
    out << value;
    return out.str();
}

std::string text_of(const spec::Norm& norm) {
    const char* kind = norm.kind == spec::NormKind::kRms       ? "rms"
                       : norm.kind == spec::NormKind::kRmsLate ? "late"
                                                               : "layer";
    return last_part(norm.path) + "(" + kind + (norm.offset ? "+1" : "") + (norm.bias ? " bias" : "") + " " +
           std::to_string(norm.size) + " " + number(norm.eps) + ")";
}

std::string text_of(const spec::Linear& linear) {
    return last_part(linear.path) + (linear.stored_in_columns ? "^T" : "") + "[" +
           std::to_string(linear.out) + "," + std::to_string(linear.in) + "]" + (linear.bias ? "+b" : "");
}

std::string text_of(const std::vector<spec::Linear>& entry) {
    std::string out;
    for (const spec::Linear& linear : entry) out += (out.empty() ? "" : " ") + text_of(linear);
    return out;
}

std::string text_of(const DecoderSpec& decoder, const spec::Attention& a) {
    std::string out = text_of(a.entry);
    if (a.layout == spec::Attention::Layout::kPerHead) out += " by head";
    if (a.q_norm) out += " " + text_of(*a.q_norm) + " " + text_of(*a.k_norm);
    if (a.rope) {
        const spec::Rope& rope = decoder.ropes.at(*a.rope);
        out += " rope(" + number(rope.frequencies.theta) + " " + std::to_string(rope.dims) +
               (rope.pairs ? " pairs" : "") + ")";
    }
    out += " scale " + number(a.scale);
    if (a.softcap > 0) out += " cap " + number(a.softcap);
    if (a.window > 0) out += " window " + std::to_string(a.window);
    return out + " " + text_of(a.output);
}

std::string text_of(const DecoderSpec& /*decoder*/, const spec::Mlp& mlp) {
    const char* activation = mlp.activation == spec::Activation::kSilu       ? "silu"
                             : mlp.activation == spec::Activation::kGeluTanh ? "gelu_tanh"
                                                                             : "gelu";
    return text_of(mlp.entry) + " " + activation + (mlp.gated ? " gated " : " ") + text_of(mlp.output);
}

std::string text_of(const DecoderSpec& decoder, const spec::Experts& e) {
    std::string out = text_of(e.router) + " best " + std::to_string(e.chosen) + " of " +
                      std::to_string(e.experts.size()) + (e.renormalises ? " renormalised" : "") +
                      (e.rounds_weights ? " rounded" : "") + ": " + text_of(decoder, e.experts.front());
    if (e.shared) out += " + " + text_of(e.shared_gate) + " * " + text_of(decoder, *e.shared);
    return out;
}

std::string text_of(const DecoderSpec& decoder, const spec::Layer& layer) {
    std::string out;
    for (const spec::Branch& branch : layer.branches) {
        out += layer.parallel ? "| " : "> ";
        if (branch.pre) out += text_of(*branch.pre) + " ";
        out += std::visit([&](const auto& block) { return text_of(decoder, block); }, branch.block);
        if (branch.post) out += " " + text_of(*branch.post);
        if (branch.multiplier != 1.0) out += " *" + number(branch.multiplier);
        out += "\n";
    }
    return out;
}

/// The ends, then each kind of layer with the layers that are so.
std::string text_of(const DecoderSpec& decoder) {
    std::string out = decoder.embedding;
    if (decoder.embedding_scale != 1.0) out += " *" + number(decoder.embedding_scale);
    if (!decoder.positions.empty()) out += " + " + decoder.positions;
    if (decoder.pad_token_id) out += " pad " + std::to_string(*decoder.pad_token_id);
    out += "; " + text_of(decoder.final_norm) + " " + text_of(decoder.head);
    if (decoder.tie_word_embeddings) out += " tied";
    if (decoder.logit_scale != 1.0) out += " *" + number(decoder.logit_scale);
    if (decoder.logit_softcap > 0) out += " cap " + number(decoder.logit_softcap);
    out += "\n";
    std::vector<std::pair<std::string, std::string>> kinds;  // text, numbers of layers
    for (std::size_t i = 0; i < decoder.layers.size(); ++i) {
        const std::string text = text_of(decoder, decoder.layers[i]);
        const auto known =
            std::find_if(kinds.begin(), kinds.end(), [&](const auto& kind) { return kind.first == text; });
        if (known == kinds.end()) {
            kinds.emplace_back(text, std::to_string(i));
        } else {
            known->second += " " + std::to_string(i);
        }
    }
    for (const auto& [text, layers] : kinds) out += layers + ":\n" + text;
    return out;
}

Json sizes_of(const std::string& model_type) {
    if (model_type == "gpt2")
        return {{"model_type", "gpt2"}, {"vocab_size", 97}, {"n_embd", 64}, {"n_layer", 2}, {"n_head", 2}};
    Json out = {{"model_type", model_type}, {"vocab_size", 97},       {"hidden_size", 512},
                {"intermediate_size", 40},  {"num_hidden_layers", 6}, {"num_attention_heads", 64}};
    if (model_type == "ministral") out["head_dim"] = 16;
    if (model_type != "mistral3" && model_type != "gemma3") return out;
    out.erase("model_type");
    return {{"model_type", model_type}, {"text_config", out}};
}

struct Expected {
    const char *model_type, *text;
};

constexpr Expected kExpected[] = {
    {"cohere", R"(model.embed_tokens pad 0; norm(layer 512 1e-05) lm_head[97,512] tied *0.0625
0 1 2 3 4 5:
| input_layernorm(layer 512 1e-05) q_proj[512,512] k_proj[512,512] v_proj[512,512] rope(500000 8 pairs) scale 0.353553 o_proj[512,512]
| input_layernorm(layer 512 1e-05) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
)"},
    {"cohere2", R"(model.embed_tokens pad 0; norm(layer 512 1e-05) lm_head[97,512] tied *0.0625
0 1 2 4 5:
| input_layernorm(layer 512 1e-05) q_proj[512,512] k_proj[512,512] v_proj[512,512] rope(10000 8 pairs) scale 0.353553 window 4096 o_proj[512,512]
| input_layernorm(layer 512 1e-05) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
3:
| input_layernorm(layer 512 1e-05) q_proj[512,512] k_proj[512,512] v_proj[512,512] scale 0.353553 o_proj[512,512]
| input_layernorm(layer 512 1e-05) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
)"},
    {"exaone4", R"(model.embed_tokens; norm(rms 512 1e-05) lm_head[97,512]
0 1 2 4 5:
> q_proj[512,512] k_proj[256,512] v_proj[256,512] q_norm(rms 8 1e-05) k_norm(rms 8 1e-05) rope(10000 8) scale 0.353553 window 4096 o_proj[512,512] post_attention_layernorm(rms 512 1e-05)
> gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40] post_feedforward_layernorm(rms 512 1e-05)
3:
> q_proj[512,512] k_proj[256,512] v_proj[256,512] q_norm(rms 8 1e-05) k_norm(rms 8 1e-05) scale 0.353553 o_proj[512,512] post_attention_layernorm(rms 512 1e-05)
> gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40] post_feedforward_layernorm(rms 512 1e-05)
)"},
    {"gemma", R"(model.embed_tokens *22.6274 pad 0; norm(late+1 512 1e-06) lm_head[97,512] tied
0 1 2 3 4 5:
> input_layernorm(late+1 512 1e-06) q_proj[16384,512] k_proj[4096,512] v_proj[4096,512] rope(10000 256) scale 0.0625 o_proj[512,16384]
> post_attention_layernorm(late+1 512 1e-06) gate_proj[40,512] up_proj[40,512] gelu_tanh gated down_proj[512,40]
)"},
    {"gemma2", R"(model.embed_tokens *22.6274 pad 0; norm(late+1 512 1e-06) lm_head[97,512] tied cap 30
0 2 4:
> input_layernorm(late+1 512 1e-06) q_proj[16384,512] k_proj[1024,512] v_proj[1024,512] rope(10000 256) scale 0.0625 cap 50 window 4096 o_proj[512,16384] post_attention_layernorm(late+1 512 1e-06)
> pre_feedforward_layernorm(late+1 512 1e-06) gate_proj[40,512] up_proj[40,512] gelu_tanh gated down_proj[512,40] post_feedforward_layernorm(late+1 512 1e-06)
1 3 5:
> input_layernorm(late+1 512 1e-06) q_proj[16384,512] k_proj[1024,512] v_proj[1024,512] rope(10000 256) scale 0.0625 cap 50 o_proj[512,16384] post_attention_layernorm(late+1 512 1e-06)
> pre_feedforward_layernorm(late+1 512 1e-06) gate_proj[40,512] up_proj[40,512] gelu_tanh gated down_proj[512,40] post_feedforward_layernorm(late+1 512 1e-06)
)"},
    {"gemma3",
     R"(model.language_model.embed_tokens *22.6274 pad 0; norm(late+1 512 1e-06) lm_head[97,512] tied
0 1 2 3 4:
> input_layernorm(late+1 512 1e-06) q_proj[16384,512] k_proj[1024,512] v_proj[1024,512] q_norm(late+1 256 1e-06) k_norm(late+1 256 1e-06) rope(10000 256) scale 0.0625 window 4096 o_proj[512,16384] post_attention_layernorm(late+1 512 1e-06)
> pre_feedforward_layernorm(late+1 512 1e-06) gate_proj[40,512] up_proj[40,512] gelu_tanh gated down_proj[512,40] post_feedforward_layernorm(late+1 512 1e-06)
5:
> input_layernorm(late+1 512 1e-06) q_proj[16384,512] k_proj[1024,512] v_proj[1024,512] q_norm(late+1 256 1e-06) k_norm(late+1 256 1e-06) rope(1e+06 256) scale 0.0625 o_proj[512,16384] post_attention_layernorm(late+1 512 1e-06)
> pre_feedforward_layernorm(late+1 512 1e-06) gate_proj[40,512] up_proj[40,512] gelu_tanh gated down_proj[512,40] post_feedforward_layernorm(late+1 512 1e-06)
)"},
    {"gemma3_text", R"(model.embed_tokens *22.6274 pad 0; norm(late+1 512 1e-06) lm_head[97,512] tied
0 1 2 3 4:
> input_layernorm(late+1 512 1e-06) q_proj[16384,512] k_proj[1024,512] v_proj[1024,512] q_norm(late+1 256 1e-06) k_norm(late+1 256 1e-06) rope(10000 256) scale 0.0625 window 4096 o_proj[512,16384] post_attention_layernorm(late+1 512 1e-06)
> pre_feedforward_layernorm(late+1 512 1e-06) gate_proj[40,512] up_proj[40,512] gelu_tanh gated down_proj[512,40] post_feedforward_layernorm(late+1 512 1e-06)
5:
> input_layernorm(late+1 512 1e-06) q_proj[16384,512] k_proj[1024,512] v_proj[1024,512] q_norm(late+1 256 1e-06) k_norm(late+1 256 1e-06) rope(1e+06 256) scale 0.0625 o_proj[512,16384] post_attention_layernorm(late+1 512 1e-06)
> pre_feedforward_layernorm(late+1 512 1e-06) gate_proj[40,512] up_proj[40,512] gelu_tanh gated down_proj[512,40] post_feedforward_layernorm(late+1 512 1e-06)
)"},
    {"glm4", R"(model.embed_tokens; norm(rms 512 1.5625e-07) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(rms 512 1.5625e-07) q_proj[8192,512]+b k_proj[256,512]+b v_proj[256,512]+b rope(10000 64 pairs) scale 0.0883883 o_proj[512,8192] post_self_attn_layernorm(rms 512 1.5625e-07)
> post_attention_layernorm(rms 512 1.5625e-07) gate_up_proj[80,512] silu gated down_proj[512,40] post_mlp_layernorm(rms 512 1.5625e-07)
)"},
    {"gpt2", R"(transformer.wte + transformer.wpe; ln_f(layer bias 64 1e-05) lm_head[97,64] tied
0 1:
> ln_1(layer bias 64 1e-05) c_attn^T[192,64]+b scale 0.176777 c_proj^T[64,64]+b
> ln_2(layer bias 64 1e-05) c_fc^T[256,64]+b gelu_tanh c_proj^T[64,256]+b
)"},
    {"gpt_neox", R"(gpt_neox.embed_in; final_layer_norm(layer bias 512 1e-05) lm_head[97,512]
0 1 2 3 4 5:
| input_layernorm(layer bias 512 1e-05) query_key_value[1536,512]+b by head rope(10000 2) scale 0.353553 dense[512,512]+b
| post_attention_layernorm(layer bias 512 1e-05) dense_h_to_4h[40,512]+b gelu dense_4h_to_h[512,40]+b
)"},
    {"granite", R"(model.embed_tokens; norm(rms 512 1e-06) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(rms 512 1e-06) q_proj[512,512] k_proj[512,512] v_proj[512,512] rope(10000 8) scale 1 o_proj[512,512]
> post_attention_layernorm(rms 512 1e-06) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
)"},
    {"hyperclovax", R"(model.embed_tokens; norm(rms 512 1e-06) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(rms 512 1e-06) q_proj[512,512] k_proj[512,512] v_proj[512,512] rope(10000 8) scale 0.353553 o_proj[512,512] post_norm1(rms 512 1e-06)
> post_attention_layernorm(rms 512 1e-06) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40] post_norm2(rms 512 1e-06)
)"},
    {"llama", R"(model.embed_tokens; norm(rms 512 1e-06) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(rms 512 1e-06) q_proj[512,512] k_proj[512,512] v_proj[512,512] rope(10000 8) scale 0.353553 o_proj[512,512]
> post_attention_layernorm(rms 512 1e-06) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
)"},
    {"ministral", R"(model.embed_tokens; norm(rms 512 1e-06) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(rms 512 1e-06) q_proj[1024,512] k_proj[128,512] v_proj[128,512] rope(10000 16) scale 0.25 window 4096 o_proj[512,1024]
> post_attention_layernorm(rms 512 1e-06) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
)"},
    {"ministral3", R"(model.embed_tokens pad 11; norm(rms 512 1e-05) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(rms 512 1e-05) q_proj[8192,512] k_proj[1024,512] v_proj[1024,512] rope(1e+06 128) scale 0.0883883 o_proj[512,8192]
> post_attention_layernorm(rms 512 1e-05) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
)"},
    {"mistral", R"(model.embed_tokens; norm(rms 512 1e-06) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(rms 512 1e-06) q_proj[512,512] k_proj[64,512] v_proj[64,512] rope(10000 8) scale 0.353553 window 4096 o_proj[512,512]
> post_attention_layernorm(rms 512 1e-06) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
)"},
    {"mistral3", R"(model.language_model.embed_tokens; norm(rms 512 1e-06) lm_head[97,512] tied
0 1 2 3 4 5:
> input_layernorm(rms 512 1e-06) q_proj[512,512] k_proj[64,512] v_proj[64,512] rope(10000 8) scale 0.353553 window 4096 o_proj[512,512]
> post_attention_layernorm(rms 512 1e-06) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
)"},
    {"mixtral", R"(model.embed_tokens; norm(rms 512 1e-05) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(rms 512 1e-05) q_proj[512,512] k_proj[64,512] v_proj[64,512] rope(1e+06 8) scale 0.353553 o_proj[512,512]
> post_attention_layernorm(rms 512 1e-05) gate[8,512] best 2 of 8 renormalised: w1[40,512] w3[40,512] silu gated w2[512,40]
)"},
    {"olmo2", R"(model.embed_tokens pad 1; norm(late 512 1e-05) lm_head[97,512]
0 1 2 3 4 5:
> q_proj[512,512] k_proj[512,512] v_proj[512,512] q_norm(late 512 1e-05) k_norm(late 512 1e-05) rope(10000 8) scale 0.353553 o_proj[512,512] post_attention_layernorm(late 512 1e-05)
> gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40] post_feedforward_layernorm(late 512 1e-05)
)"},
    {"olmo3", R"(model.embed_tokens pad 1; norm(late 512 1e-05) lm_head[97,512]
0 1 2 4 5:
> q_proj[512,512] k_proj[512,512] v_proj[512,512] q_norm(late 512 1e-05) k_norm(late 512 1e-05) rope(500000 8) scale 0.353553 window 4096 o_proj[512,512] post_attention_layernorm(late 512 1e-05)
> gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40] post_feedforward_layernorm(late 512 1e-05)
3:
> q_proj[512,512] k_proj[512,512] v_proj[512,512] q_norm(late 512 1e-05) k_norm(late 512 1e-05) rope(500000 8) scale 0.353553 o_proj[512,512] post_attention_layernorm(late 512 1e-05)
> gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40] post_feedforward_layernorm(late 512 1e-05)
)"},
    {"olmoe", R"(model.embed_tokens pad 1; norm(rms 512 1e-05) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(rms 512 1e-05) q_proj[512,512] k_proj[512,512] v_proj[512,512] q_norm(rms 512 1e-05) k_norm(rms 512 1e-05) rope(10000 8) scale 0.353553 o_proj[512,512]
> post_attention_layernorm(rms 512 1e-05) gate[64,512] best 8 of 64 rounded: gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
)"},
    {"phi", R"(model.embed_tokens; final_layernorm(layer bias 512 1e-05) lm_head[97,512]+b
0 1 2 3 4 5:
| input_layernorm(layer bias 512 1e-05) q_proj[512,512]+b k_proj[512,512]+b v_proj[512,512]+b rope(10000 4) scale 0.353553 dense[512,512]+b
| input_layernorm(layer bias 512 1e-05) fc1[40,512]+b gelu_tanh fc2[512,40]+b
)"},
    {"phi3", R"(model.embed_tokens; norm(rms 512 1e-05) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(rms 512 1e-05) qkv_proj[1536,512] rope(10000 8) scale 0.353553 o_proj[512,512]
> post_attention_layernorm(rms 512 1e-05) gate_up_proj[80,512] silu gated down_proj[512,40]
)"},
    {"qwen2", R"(model.embed_tokens; norm(rms 512 1e-06) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(rms 512 1e-06) q_proj[512,512]+b k_proj[256,512]+b v_proj[256,512]+b rope(10000 8) scale 0.353553 o_proj[512,512]
> post_attention_layernorm(rms 512 1e-06) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
)"},
    {"qwen2_moe", R"(model.embed_tokens; norm(rms 512 1e-06) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(rms 512 1e-06) q_proj[512,512]+b k_proj[128,512]+b v_proj[128,512]+b rope(10000 8) scale 0.353553 o_proj[512,512]
> post_attention_layernorm(rms 512 1e-06) gate[60,512] best 4 of 60 rounded: gate_proj[1408,512] up_proj[1408,512] silu gated down_proj[512,1408] + shared_expert_gate[1,512] * gate_proj[5632,512] up_proj[5632,512] silu gated down_proj[512,5632]
)"},
    {"qwen3", R"(model.embed_tokens; norm(rms 512 1e-06) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(rms 512 1e-06) q_proj[8192,512] k_proj[4096,512] v_proj[4096,512] q_norm(rms 128 1e-06) k_norm(rms 128 1e-06) rope(10000 128) scale 0.0883883 o_proj[512,8192]
> post_attention_layernorm(rms 512 1e-06) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
)"},
    {"qwen3_moe", R"(model.embed_tokens; norm(rms 512 1e-06) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(rms 512 1e-06) q_proj[512,512] k_proj[32,512] v_proj[32,512] q_norm(rms 8 1e-06) k_norm(rms 8 1e-06) rope(10000 8) scale 0.353553 o_proj[512,512]
> post_attention_layernorm(rms 512 1e-06) gate[128,512] best 8 of 128 rounded: gate_proj[768,512] up_proj[768,512] silu gated down_proj[512,768]
)"},
    {"smollm3", R"(model.embed_tokens; norm(rms 512 1e-06) lm_head[97,512] tied
0 1 2 4 5:
> input_layernorm(rms 512 1e-06) q_proj[512,512] k_proj[32,512] v_proj[32,512] rope(2e+06 8) scale 0.353553 o_proj[512,512]
> post_attention_layernorm(rms 512 1e-06) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
3:
> input_layernorm(rms 512 1e-06) q_proj[512,512] k_proj[32,512] v_proj[32,512] scale 0.353553 o_proj[512,512]
> post_attention_layernorm(rms 512 1e-06) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
)"},
    {"stablelm", R"(model.embed_tokens; norm(layer bias 512 1e-05) lm_head[97,512]
0 1 2 3 4 5:
> input_layernorm(layer bias 512 1e-05) q_proj[512,512] k_proj[256,512] v_proj[256,512] rope(10000 2) scale 0.353553 o_proj[512,512]
> post_attention_layernorm(layer bias 512 1e-05) gate_proj[40,512] up_proj[40,512] silu gated down_proj[512,40]
)"},
    {"starcoder2", R"(model.embed_tokens; norm(layer bias 512 1e-05) lm_head[97,512] tied
0 1 2 3 4 5:
> input_layernorm(layer bias 512 1e-05) q_proj[512,512]+b k_proj[16,512]+b v_proj[16,512]+b rope(10000 8) scale 0.353553 o_proj[512,512]+b
> post_attention_layernorm(layer bias 512 1e-05) c_fc[40,512]+b gelu_tanh c_proj[512,40]+b
)"},
};

class DecoderType : public testing::TestWithParam<Expected> {};

TEST_P(DecoderType, has_transformers_defaults) {
    EXPECT_EQ(text_of(parse_decoder_spec(sizes_of(GetParam().model_type), "config.json")), GetParam().text);
}

INSTANTIATE_TEST_SUITE_P(All, DecoderType, testing::ValuesIn(kExpected),
                         [](const auto& chosen) { return std::string(chosen.param.model_type); });

TEST(DecoderTypes, each_has_its_line_here) {
    std::vector<std::string> listed;
    for (const Expected& expected : kExpected) listed.emplace_back(expected.model_type);
    EXPECT_EQ(listed, supported_model_types());
}

TEST(DecoderTypes, those_that_people_ask_for_in_vain_are_refused_with_the_reason) {
    const std::pair<const char*, const char*> kCases[] = {{"deepseek_v3", "latent"},
                                                          {"llama4", "chunked attention"},
                                                          {"gemma4", "share keys and values"},
                                                          {"qwen3_5", "gated delta nets"},
                                                          {"gpt_oss", "attention sinks"},
                                                          {"lfm2", "short convolutions"},
                                                          {"t5", "encoder with a decoder"},
                                                          {"bert", "an encoder"},
                                                          {"roberta", "an encoder"}};
    for (const auto& [type, why] : kCases) {
        try {
            parse_decoder_spec({{"model_type", type}}, "config.json");
            FAIL() << type;
        } catch (const CheckpointError& error) {
            const std::string text = error.what();
            EXPECT_NE(text.find("'" + std::string(type) + "' is not supported: "), std::string::npos) << text;
            EXPECT_NE(text.find(why), std::string::npos) << text;
            EXPECT_NE(text.find("; supported are "), std::string::npos) << text;
        }
    }
}

TEST(DecoderTypes, a_dropout_of_the_base_is_taken_as_none_and_said) {
    Json json = sizes_of("starcoder2");
    json["attention_dropout"] = 0.1;
    json["residual_dropout"] = 0.1;
    json["embedding_dropout"] = 0.0;
    EXPECT_EQ(parse_decoder_spec(json, "config.json").passed_over,
              std::vector<std::string>(
                  {"config.json: attention_dropout, residual_dropout of the base are taken as 0"}));
}

TEST(DecoderTypes, heads_of_cohere2_may_have_a_size_of_their_own) {
    const DecoderSpec decoder = parse_decoder_spec({{"model_type", "cohere2"},
                                                    {"vocab_size", 97},
                                                    {"hidden_size", 64},
                                                    {"intermediate_size", 96},
                                                    {"num_hidden_layers", 1},
                                                    {"num_attention_heads", 4},
                                                    {"head_dim", 32}},
                                                   "config.json");
    EXPECT_EQ(decoder.linears().front()->out, 4 * 32);
    EXPECT_EQ(decoder.ropes.front().dims, 32);
}

}  // namespace
}  // namespace qlora::models
