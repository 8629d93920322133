#pragma once

#include "windows.h"

/// What gemma2 and gemma3 share.
namespace qlora::models {

inline constexpr SandwichNames kGemmaNorms = {"input_layernorm", "post_attention_layernorm",
                                              "pre_feedforward_layernorm", "post_feedforward_layernorm"};

/// transformers' defaults.
SizeDefaults gemma_sizes(std::int64_t max_positions);

/// Scores are divided by the root of `query_pre_attn_scalar`.
double gemma_scale(ConfigReader& config);

}  // namespace qlora::models
