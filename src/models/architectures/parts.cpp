#include "parts.h"

#include <algorithm>
#include <cmath>

namespace qlora::models {
namespace {

constexpr std::int64_t kMostHeads = 65536;  // and the largest head_dim
constexpr std::int64_t kMostLayers = 10000;

void read_heads(ConfigReader& config, const SizeDefaults& defaults, Sizes& sizes) {
    sizes.heads = config.integer("num_attention_heads", std::nullopt, 1, kMostHeads);
    // A null means as many as there are query heads; a missing key, the architecture's own default.
    const bool kv_by_default = !config.json().contains("num_key_value_heads") && defaults.kv_heads > 0;
    sizes.kv_heads =
        config.integer("num_key_value_heads", kv_by_default ? defaults.kv_heads : sizes.heads, 1, kMostHeads);
    if (sizes.heads % sizes.kv_heads != 0) {
        config.faults().add("num_key_value_heads", std::to_string(sizes.kv_heads) +
                                                       " does not divide num_attention_heads " +
                                                       std::to_string(sizes.heads));
    }
    std::int64_t head_dim = defaults.head_dim;
    if (!config.has("head_dim") && head_dim == 0) {
        if (sizes.hidden % sizes.heads != 0) {
            config.faults().add("hidden_size", std::to_string(sizes.hidden) +
                                                   " is not a multiple of num_attention_heads " +
                                                   std::to_string(sizes.heads));
        }
        head_dim = std::max<std::int64_t>(1, sizes.hidden / sizes.heads);
    }
    sizes.head_dim = config.integer("head_dim", head_dim, 1, kMostHeads);
    if (sizes.head_dim % 2 != 0) config.faults().add("head_dim", "must be even for rotary embeddings");
}

/// The sliding window of each layer as it is where `layer_types` is absent; 0: the layer has none.
std::vector<std::int64_t> default_windows(ConfigReader& config, WindowRule rule, std::int64_t layers,
                                          std::int64_t& window) {
    std::vector<std::int64_t> windows(static_cast<std::size_t>(layers), 0);
    const bool asked = rule != WindowRule::kFlag || config.boolean("use_sliding_window", false);
    const bool switched_off = config.json().contains("sliding_window") && !config.has("sliding_window");
    if (!asked || switched_off) return windows;
    window = config.integer("sliding_window", 4096);  // transformers' default
    const std::int64_t first = rule == WindowRule::kFlag ? config.integer("max_window_layers", 28, 0) : 0;
    for (std::int64_t layer = first; layer < layers; ++layer)
        windows[static_cast<std::size_t>(layer)] = window;
    return windows;
}

}  // namespace

Sizes read_sizes(ConfigReader& config, const SizeDefaults& defaults) {
    Sizes sizes;
    sizes.vocabulary = config.integer("vocab_size", std::nullopt);
    sizes.hidden = config.integer("hidden_size", std::nullopt);
    sizes.inner = config.integer("intermediate_size", std::nullopt);
    sizes.layers = config.integer("num_hidden_layers", std::nullopt, 1, kMostLayers);
    sizes.max_positions = config.integer("max_position_embeddings", defaults.max_positions);
    read_heads(config, defaults, sizes);
    sizes.eps = config.number("rms_norm_eps", defaults.eps);
    return sizes;
}

DecoderSpec decoder(ConfigReader& config, const Sizes& sizes, const DecoderDefaults& defaults) {
    DecoderSpec out;
    out.vocab_size = sizes.vocabulary;
    out.hidden_size = sizes.hidden;
    out.max_position_embeddings = sizes.max_positions;
    out.embedding = "model.embed_tokens";
    out.ropes = {
        read_rope(config, {.head_dim = sizes.head_dim, .max_positions = sizes.max_positions}, defaults.rope)};
    out.final_norm = {.path = "model.norm", .size = sizes.hidden, .eps = sizes.eps};
    out.head = {.path = "lm_head", .in = sizes.hidden, .out = sizes.vocabulary};
    // Old transformers saved the frequencies, of each layer or of the model.
    out.ignored = {"self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"};
    out.tie_word_embeddings = config.boolean("tie_word_embeddings", defaults.tied);
    if (!config.json().contains("pad_token_id") && defaults.padding >= 0 &&
        defaults.padding < sizes.vocabulary)
        out.pad_token_id = defaults.padding;
    return out;
}

std::vector<std::int64_t> heed_layer_types(ConfigReader& config, std::vector<std::int64_t> windows,
                                           std::int64_t window) {
    if (!config.has("layer_types")) return windows;
    const Json& types = config.json().at("layer_types");
    if (!types.is_array() || types.size() != windows.size()) {
        config.faults().add("layer_types", "must list one entry for each of the layers");
        return windows;
    }
    for (std::size_t layer = 0; layer < windows.size(); ++layer) {
        const std::string place = "layer_types[" + std::to_string(layer) + "]";
        const bool full = types[layer] == "full_attention";
        if (!full && types[layer] != "sliding_attention") {
            config.faults().add(
                place, types[layer].dump() + " is not supported; use full_attention or sliding_attention");
        } else if (!full && window == 0) {
            config.faults().add(place, "is sliding_attention, but no sliding_window is switched on");
        } else {
            windows[layer] = full ? 0 : window;
        }
    }
    return windows;
}

std::vector<std::int64_t> read_windows(ConfigReader& config, WindowRule rule, const Sizes& sizes) {
    std::int64_t window = 0;
    const std::vector<std::int64_t> usual = default_windows(config, rule, sizes.layers, window);
    std::vector<std::int64_t> windows = heed_layer_types(config, usual, window);
    for (std::size_t layer = 0; layer < windows.size(); ++layer) {
        if (rule != WindowRule::kAlways || windows[layer] == usual[layer]) continue;
        config.faults().add("layer_types[" + std::to_string(layer) + "]",
                            "is full_attention, but all layers of a " + config.text("model_type", "") +
                                " model have the sliding_window");
    }
    return windows;
}

std::string layer_path(std::int64_t layer, const std::string& rest) {
    return "model.layers." + std::to_string(layer) + "." + rest;
}

spec::Attention separate_attention(const Sizes& s, std::int64_t layer, AttentionBiases biases) {
    const std::int64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    const bool bias = biases.query_key_value;
    return {.entry = {{layer_path(layer, "self_attn.q_proj"), s.hidden, q, bias},
                      {layer_path(layer, "self_attn.k_proj"), s.hidden, kv, bias},
                      {layer_path(layer, "self_attn.v_proj"), s.hidden, kv, bias}},
            .output = {layer_path(layer, "self_attn.o_proj"), q, s.hidden, biases.output},
            .heads = s.heads,
            .kv_heads = s.kv_heads,
            .head_dim = s.head_dim,
            .scale = 1.0 / std::sqrt(static_cast<double>(s.head_dim))};
}

spec::Mlp gated_mlp(const Sizes& s, std::int64_t layer, bool bias) {
    return {.entry = {{layer_path(layer, "mlp.gate_proj"), s.hidden, s.inner, bias},
                      {layer_path(layer, "mlp.up_proj"), s.hidden, s.inner, bias}},
            .output = {layer_path(layer, "mlp.down_proj"), s.inner, s.hidden, bias}};
}

spec::Layer pre_norm_layer(const Sizes& s, std::int64_t layer, spec::Attention attention, spec::Mlp mlp) {
    const auto norm = [&](const char* name) {
        return spec::Norm{.path = layer_path(layer, name), .size = s.hidden, .eps = s.eps};
    };
    return {.branches = {{.pre = norm("input_layernorm"), .block = std::move(attention)},
                         {.pre = norm("post_attention_layernorm"), .block = std::move(mlp)}}};
}

void add_layers(DecoderSpec& decoder, const Sizes& sizes, const std::vector<std::int64_t>& windows,
                AttentionBiases biases) {
    for (const std::int64_t window : windows) {
        const auto layer = static_cast<std::int64_t>(decoder.layers.size());
        spec::Attention attention = separate_attention(sizes, layer, biases);
        attention.window = window;
        decoder.layers.push_back(pre_norm_layer(sizes, layer, std::move(attention), gated_mlp(sizes, layer)));
    }
}

void refuse_unbuilt_settings(ConfigReader& config) {
    const std::string act = config.text("hidden_act", "silu");
    if (act != "silu") config.faults().add("hidden_act", "'" + act + "' is not supported; only silu is");
    if (config.has("attention_dropout") && config.json().at("attention_dropout") != 0 &&
        config.json().at("attention_dropout") != 0.0) {
        config.faults().add("attention_dropout", "only 0 is supported");
    }
}

}  // namespace qlora::models
