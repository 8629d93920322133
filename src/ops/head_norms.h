#pragma once

#include "qlora/ops/attention.h"

/// The norms of query and key heads, as attention's node runs them.
namespace qlora::ops {

/// Of q's norm or of k's; statistics are those of all its rows, head after head where each has its own
/// weight.
struct HeadNormStatistics {
    NormStatistics q, k;
};
struct NormedHeads {
    at::Tensor qkv;  ///< a copy with normed q and k
    HeadNormStatistics statistics;
};
NormedHeads norm_heads(const at::Tensor& qkv, const AttentionShape& shape, const HeadNorms& norms);

/// Gradients of the weights and biases that are wanted, fp32.
struct HeadNormGradients {
    at::Tensor q_weight, k_weight, q_bias, k_bias;
};
struct WantedHeadNorms {
    bool q_weight, k_weight, q_bias, k_bias;
};
/// Turns the gradient of normed heads into that of `raw` ones, in place.
HeadNormGradients norm_heads_backward(at::Tensor& d_qkv, const at::Tensor& raw, const AttentionShape& shape,
                                      const HeadNorms& norms, const HeadNormStatistics& statistics,
                                      WantedHeadNorms wanted);

}  // namespace qlora::ops
