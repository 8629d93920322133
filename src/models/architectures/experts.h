#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "parts.h"

/// Experts in the place of a layer's MLP.
namespace qlora::models {

/// What the experts of all layers have in common.
struct ExpertRule {
    std::int64_t count = 0, chosen = 0, inner = 0;
    bool renormalises = false;
    bool rounds_weights = true;
    spec::Activation activation = spec::Activation::kSilu;
};

/// transformers' defaults for keys that are missing.
struct ExpertDefaults {
    std::int64_t count = 0, chosen = 0;
};
/// `num_experts` or `num_local_experts`, `num_experts_per_tok`, `norm_topk_prob` and `hidden_act`; `inner` is
/// the type's own.
ExpertRule read_experts(ConfigReader& config, const ExpertDefaults& defaults, std::int64_t inner);

/// The last parts of the linears' names in an expert.
struct ExpertNames {
    const char *gate = "gate_proj", *up = "up_proj", *down = "down_proj";
};
/// `mlp.gate` and `mlp.experts`.
spec::Experts experts(const Sizes& sizes, std::int64_t layer, const ExpertRule& rule,
                      const ExpertNames& names = {});

/// Which layers have experts: each `decoder_sparse_step`-th but for those of `mlp_only_layers`.
std::vector<bool> read_expert_layers(ConfigReader& config, const Sizes& sizes);

/// A number that may be 0, as it is where the key is null.
double zero_or_more(ConfigReader& config, const char* key, double fallback);

/// `output_router_logits` and `router_aux_loss_coef`.
void read_router_loss(ConfigReader& config, double default_coefficient, DecoderSpec& out);

}  // namespace qlora::models
