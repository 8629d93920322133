#pragma once

#include <ATen/core/Tensor.h>

#include "qlora/ops/frozen_weight.h"

namespace qlora::ops {

/// Rows of logits held at once by the functions below: bounds their memory to rows * vocabulary * 4 bytes.
inline constexpr std::int64_t kLogitsChunkRows = 256;

/// Sum over rows of -log softmax(hidden W^T)[target]: output head and cross-entropy in one node that never
/// holds all logits. hidden [R, d] fp32 or bf16 (logits are rounded to its dtype, softmax in fp32), targets
/// [R] int64. The gradient of hidden is made in the forward pass, chunk by chunk. Result: fp32 scalar.
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const FrozenWeight& head,
                                const at::Tensor& targets);

/// The same with a trainable fp32 head [V, d], which gets its gradient too.
at::Tensor trainable_linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& head,
                                          const at::Tensor& targets);

/// Without gradients: log probability of each target [R] fp32, and whether it is the most likely token [R]
/// bool.
struct TokenScores {
    at::Tensor logprobs;
    at::Tensor correct;
};
TokenScores score_tokens(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets);

}  // namespace qlora::ops
