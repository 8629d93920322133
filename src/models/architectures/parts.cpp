#include "parts.h"

#include <algorithm>
#include <cmath>

namespace qlora::models {
namespace {

constexpr std::int64_t kMostHeads = 65536;  // and the largest head_dim
constexpr std::int64_t kMostLayers = 10000;

std::optional<std::int64_t> unless_0(std::int64_t value) {
    return value == 0 ? std::nullopt : std::optional<std::int64_t>(value);
}

void read_heads(ConfigReader& config, const SizeDefaults& defaults, Sizes& sizes) {
    const SizeKeys& keys = defaults.keys;
    sizes.heads = config.integer(keys.heads, unless_0(defaults.heads), 1, kMostHeads);
    sizes.kv_heads = sizes.heads;
    if (keys.kv_heads != nullptr) {
        // A null means as many as there are query heads; a missing key, the architecture's own default.
        const bool by_default = !config.json().contains(keys.kv_heads) && defaults.kv_heads > 0;
        sizes.kv_heads =
            config.integer(keys.kv_heads, by_default ? defaults.kv_heads : sizes.heads, 1, kMostHeads);
    }
    if (sizes.heads % sizes.kv_heads != 0) {
        config.faults().add(keys.kv_heads, std::to_string(sizes.kv_heads) + " does not divide " + keys.heads +
                                               " " + std::to_string(sizes.heads));
    }
    const bool given = keys.head_dim != nullptr && config.has(keys.head_dim);
    std::int64_t head_dim = defaults.head_dim;
    bool divides = true;
    if (!given && head_dim == 0) {
        divides = sizes.hidden % sizes.heads == 0;
        if (!divides) {
            config.faults().add(keys.hidden, std::to_string(sizes.hidden) + " is not a multiple of " +
                                                 keys.heads + " " + std::to_string(sizes.heads));
        }
        head_dim = std::max<std::int64_t>(1, sizes.hidden / sizes.heads);
    }
    sizes.head_dim = given ? config.integer(keys.head_dim, std::nullopt, 1, kMostHeads) : head_dim;
    if (divides && sizes.head_dim % 2 != 0) {
        config.faults().add(
            given ? keys.head_dim : keys.heads,
            "makes heads of " + std::to_string(sizes.head_dim) + " dimensions; their number must be even");
    }
}

/// The row that nn.Embedding is told of; none where the id is no row.
std::optional<std::int64_t> read_padding(ConfigReader& config, std::int64_t fallback,
                                         std::int64_t vocabulary) {
    std::int64_t id = fallback;
    if (config.json().contains("pad_token_id")) {
        const Json& given = config.json().at("pad_token_id");
        id = given.is_number_integer() ? given.get<std::int64_t>() : -1;
    }
    return id >= 0 && id < vocabulary ? std::optional<std::int64_t>(id) : std::nullopt;
}

/// Keys of a dropout in the bases that transformers' types have; it drops nothing here.
constexpr const char* kDropouts[] = {"attention_dropout", "hidden_dropout", "resid_pdrop",
                                     "embd_pdrop",        "attn_pdrop",     "residual_dropout",
                                     "embedding_dropout"};

void pass_over_dropout(ConfigReader& config, DecoderSpec& out) {
    std::string set;
    const char* verb = " of the base is taken as 0";
    for (const char* key : kDropouts) {
        if (!config.has(key)) continue;
        const Json& value = config.json().at(key);
        if (!value.is_number()) {
            config.faults().add(key, "must be a number, not " + value.dump());
        } else if (value.get<double>() != 0) {
            if (!set.empty()) {
                set += ", ";
                verb = " of the base are taken as 0";
            }
            set += key;
        }
    }
    if (!set.empty()) out.passed_over.push_back(set + verb);
}

}  // namespace

Sizes read_sizes(ConfigReader& config, const SizeDefaults& defaults) {
    const SizeKeys& keys = defaults.keys;
    Sizes sizes;
    sizes.vocabulary = config.integer("vocab_size", unless_0(defaults.vocabulary));
    sizes.hidden = config.integer(keys.hidden, unless_0(defaults.hidden));
    const std::int64_t inner = std::max(defaults.inner, defaults.inner_of_hidden * sizes.hidden);
    sizes.inner = config.integer(keys.inner, unless_0(inner));
    sizes.layers = config.integer(keys.layers, unless_0(defaults.layers), 1, kMostLayers);
    sizes.max_positions = config.integer(keys.max_positions, defaults.max_positions);
    read_heads(config, defaults, sizes);
    sizes.norm = defaults.norm;
    sizes.norm.eps = config.number(keys.eps, defaults.norm.eps);
    return sizes;
}

RopeSizes rope_sizes(const Sizes& sizes) {
    return {.head_dim = sizes.head_dim, .max_positions = sizes.max_positions};
}

spec::Norm norm(const Sizes& sizes, const std::string& path, std::int64_t size) {
    return {.path = path,
            .size = size,
            .eps = sizes.norm.eps,
            .kind = sizes.norm.kind,
            .bias = sizes.norm.bias,
            .offset = sizes.norm.offset};
}

DecoderSpec decoder(ConfigReader& config, const Sizes& sizes, const DecoderDefaults& defaults) {
    DecoderSpec out;
    out.vocab_size = sizes.vocabulary;
    out.hidden_size = sizes.hidden;
    out.max_position_embeddings = sizes.max_positions;
    out.embedding = sizes.prefix + "embed_tokens";
    out.final_norm = norm(sizes, sizes.prefix + "norm", sizes.hidden);
    out.head = {.path = "lm_head", .in = sizes.hidden, .out = sizes.vocabulary};
    // Old transformers saved the frequencies, of each layer or of the model.
    out.ignored = {"self_attn.rotary_emb.inv_freq", sizes.prefix + "rotary_emb.inv_freq"};
    out.tie_word_embeddings = config.boolean("tie_word_embeddings", defaults.tied);
    if (defaults.has_padding_row) out.pad_token_id = read_padding(config, defaults.padding, sizes.vocabulary);
    pass_over_dropout(config, out);
    return out;
}

std::string layer_path(const Sizes& sizes, std::int64_t layer, const std::string& rest) {
    return sizes.prefix + sizes.layer_prefix + std::to_string(layer) + "." + rest;
}

spec::Norm layer_norm(const Sizes& sizes, std::int64_t layer, const std::string& rest) {
    return norm(sizes, layer_path(sizes, layer, rest), sizes.hidden);
}

spec::Attention separate_attention(const Sizes& s, std::int64_t layer, AttentionBiases biases,
                                   const std::string& output) {
    const std::int64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    const auto entry = [&](const char* rest, std::int64_t columns) {
        return spec::Linear{.path = layer_path(s, layer, rest),
                            .in = s.hidden,
                            .out = columns,
                            .bias = biases.query_key_value};
    };
    return {
        .entry = {entry("self_attn.q_proj", q), entry("self_attn.k_proj", kv), entry("self_attn.v_proj", kv)},
        .output = {.path = layer_path(s, layer, output), .in = q, .out = s.hidden, .bias = biases.output},
        .heads = s.heads,
        .kv_heads = s.kv_heads,
        .head_dim = s.head_dim,
        .scale = 1.0 / std::sqrt(static_cast<double>(s.head_dim))};
}

spec::Attention fused_attention(const Sizes& s, std::int64_t layer, const std::string& entry,
                                const std::string& output, AttentionBiases biases) {
    spec::Attention out = separate_attention(s, layer, biases, output);
    out.entry = {{.path = layer_path(s, layer, entry),
                  .in = s.hidden,
                  .out = (s.heads + 2 * s.kv_heads) * s.head_dim,
                  .bias = biases.query_key_value}};
    return out;
}

void add_head_norms(spec::Attention& attention, const Sizes& sizes, std::int64_t layer,
                    const std::string& q_norm, const std::string& k_norm) {
    attention.q_norm = norm(sizes, layer_path(sizes, layer, q_norm), sizes.head_dim);
    attention.k_norm = norm(sizes, layer_path(sizes, layer, k_norm), sizes.head_dim);
}

void give_heads_own_norms(spec::Attention& attention, bool apart) {
    attention.norm_span = spec::Attention::NormSpan::kOwnWeightsPerHead;
    attention.q_norm->heads = attention.heads;
    attention.k_norm->heads = attention.kv_heads;
    for (spec::Norm* norm : {&*attention.q_norm, &*attention.k_norm}) {
        norm->size *= norm->heads;
        norm->bias = false;
        norm->apart = apart;
    }
}

void add_row_norms(spec::Attention& attention, const Sizes& sizes, std::int64_t layer) {
    attention.q_norm =
        norm(sizes, layer_path(sizes, layer, "self_attn.q_norm"), sizes.heads * sizes.head_dim);
    attention.k_norm =
        norm(sizes, layer_path(sizes, layer, "self_attn.k_norm"), sizes.kv_heads * sizes.head_dim);
    attention.norm_span = spec::Attention::NormSpan::kRow;
}

spec::Mlp gated_mlp(const Sizes& s, std::int64_t layer, spec::Activation activation, bool bias) {
    const auto linear = [&](const char* rest, std::int64_t in, std::int64_t out) {
        return spec::Linear{.path = layer_path(s, layer, rest), .in = in, .out = out, .bias = bias};
    };
    return {.entry = {linear("mlp.gate_proj", s.hidden, s.inner), linear("mlp.up_proj", s.hidden, s.inner)},
            .output = linear("mlp.down_proj", s.inner, s.hidden),
            .activation = activation};
}

spec::Mlp fused_mlp(const Sizes& s, std::int64_t layer, spec::Activation activation) {
    spec::Mlp out = gated_mlp(s, layer, activation);
    out.entry = {{.path = layer_path(s, layer, "mlp.gate_up_proj"), .in = s.hidden, .out = 2 * s.inner}};
    return out;
}

spec::Mlp plain_mlp(const Sizes& s, std::int64_t layer, spec::Activation activation, bool bias,
                    const std::string& entry, const std::string& output) {
    return {.entry = {{.path = layer_path(s, layer, entry), .in = s.hidden, .out = s.inner, .bias = bias}},
            .output = {.path = layer_path(s, layer, output), .in = s.inner, .out = s.hidden, .bias = bias},
            .activation = activation,
            .gated = false};
}

spec::Layer pre_norm_layer(const Sizes& s, std::int64_t layer, spec::Attention attention, spec::Block mlp,
                           const std::string& first, const std::string& second) {
    return {.branches = {{.pre = layer_norm(s, layer, first), .block = std::move(attention)},
                         {.pre = layer_norm(s, layer, second), .block = std::move(mlp)}}};
}

spec::Layer post_norm_layer(const Sizes& s, std::int64_t layer, spec::Attention attention, spec::Mlp mlp) {
    return {.branches = {
                {.block = std::move(attention), .post = layer_norm(s, layer, "post_attention_layernorm")},
                {.block = std::move(mlp), .post = layer_norm(s, layer, "post_feedforward_layernorm")}}};
}

spec::Layer sandwich_layer(const Sizes& s, std::int64_t layer, spec::Attention attention, spec::Mlp mlp,
                           const SandwichNames& names) {
    return {.branches = {{.pre = layer_norm(s, layer, names.before_attention),
                          .block = std::move(attention),
                          .post = layer_norm(s, layer, names.after_attention)},
                         {.pre = layer_norm(s, layer, names.before_mlp),
                          .block = std::move(mlp),
                          .post = layer_norm(s, layer, names.after_mlp)}}};
}

spec::Layer parallel_layer(const Sizes& s, std::int64_t layer, spec::Attention attention, spec::Mlp mlp,
                           const std::string& first, const std::string& second) {
    spec::Layer out = pre_norm_layer(s, layer, std::move(attention), std::move(mlp), first, second);
    out.parallel = true;
    return out;
}

void require_off(ConfigReader& config, std::initializer_list<const char*> keys) {
    for (const char* key : keys) {
        if (config.has(key) && config.json().at(key) != false)
            config.faults().add(key, "only false is supported");
    }
}

}  // namespace qlora::models
