#include "experts.h"

namespace qlora::models {
namespace {

spec::Mlp expert(const Sizes& sizes, const std::string& path, const ExpertRule& rule,
                 const ExpertNames& names) {
    const auto linear = [&](const char* name, std::int64_t in, std::int64_t out) {
        return spec::Linear{
            .path = path + "." + name, .in = in, .out = out, .kind = spec::MatrixKind::kExpert};
    };
    return {
        .entry = {linear(names.gate, sizes.hidden, rule.inner), linear(names.up, sizes.hidden, rule.inner)},
        .output = linear(names.down, rule.inner, sizes.hidden),
        .activation = rule.activation};
}

}  // namespace

ExpertRule read_experts(ConfigReader& config, const ExpertDefaults& defaults, std::int64_t inner) {
    constexpr std::int64_t kMostExperts = 100'000;
    const char* count_key = config.has("num_local_experts") ? "num_local_experts" : "num_experts";
    ExpertRule rule{.count = config.integer(count_key, defaults.count, 1, kMostExperts),
                    .chosen = config.integer("num_experts_per_tok", defaults.chosen, 1, kMostExperts),
                    .inner = inner};
    if (rule.chosen > rule.count) {
        config.faults().add("num_experts_per_tok", std::to_string(rule.chosen) + " is more than the " +
                                                       std::to_string(rule.count) + " experts");
    }
    rule.renormalises = config.boolean("norm_topk_prob", false);
    rule.activation = config.activation("hidden_act", "silu");
    return rule;
}

spec::Experts experts(const Sizes& sizes, std::int64_t layer, const ExpertRule& rule,
                      const ExpertNames& names) {
    spec::Experts out{.path = layer_path(sizes, layer, "mlp.experts"),
                      .router = {.path = layer_path(sizes, layer, "mlp.gate"),
                                 .in = sizes.hidden,
                                 .out = rule.count,
                                 .kind = spec::MatrixKind::kRouter},
                      .chosen = rule.chosen,
                      .renormalises = rule.renormalises,
                      .rounds_weights = rule.rounds_weights};
    for (std::int64_t i = 0; i < rule.count; ++i)
        out.experts.push_back(expert(sizes, out.path + "." + std::to_string(i), rule, names));
    return out;
}

std::vector<bool> read_expert_layers(ConfigReader& config, const Sizes& sizes) {
    const std::int64_t step = config.integer("decoder_sparse_step", 1);
    std::vector<bool> out;
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) out.push_back((layer + 1) % step == 0);
    if (!config.has("mlp_only_layers")) return out;
    const Json& dense = config.json().at("mlp_only_layers");
    if (!dense.is_array()) config.faults().add("mlp_only_layers", "must be a list of layers' numbers");
    for (const Json& layer : dense.is_array() ? dense : Json::array()) {
        if (!layer.is_number_integer()) {
            config.faults().add("mlp_only_layers", "must hold layers' numbers, not " + layer.dump());
        } else if (const auto index = layer.get<std::int64_t>(); index >= 0 && index < sizes.layers) {
            out[static_cast<std::size_t>(index)] = false;
        }
    }
    return out;
}

double zero_or_more(ConfigReader& config, const char* key, double fallback) {
    const bool is_zero = config.has(key) && config.json().at(key) == 0;
    return is_zero ? 0.0 : config.number_or_off(key, fallback);
}

void read_router_loss(ConfigReader& config, double default_coefficient, DecoderSpec& out) {
    out.output_router_logits = config.boolean("output_router_logits", false);
    out.router_aux_loss_coef = zero_or_more(config, "router_aux_loss_coef", default_coefficient);
}

}  // namespace qlora::models
