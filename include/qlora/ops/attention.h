#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace qlora::ops {

/// Causal attention of each sequence alone. q [T, heads, head_dim]; k, v [T, kv_heads, head_dim] (GQA
/// unexpanded); offsets [S + 1] cumulative lengths; window 0 = full, else each token sees itself and the
/// window - 1 before it. Scale 1 / sqrt(head_dim), softmax in fp32; in bf16 the probabilities are rounded
/// before they meet v, as in transformers' sdpa attention. Result [T, heads * head_dim]. One node for all
/// sequences.
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::vector<std::int64_t>& offsets, std::int64_t window);

/// One new stretch of one sequence against everything before it, without gradient: q [n, heads, head_dim] are
/// the last n of k's and v's m positions. Used by generation.
at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            std::int64_t window);

}  // namespace qlora::ops
