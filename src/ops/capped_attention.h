#pragma once

#include "attention_backends.h"

/// Attention with a softcap by LibTorch's operations, whose own kernels know none: sequence by sequence, some
/// query rows at a time, so that no [T, T] matrix exists. In 16 bits it rounds where transformers' eager
/// attention does.
namespace qlora::ops {

/// q [n, heads, head_dim], the last n of the m positions of k and v [m, kv_heads, head_dim]: [n, q_size].
at::Tensor capped_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const AttentionShape& shape);

/// Of all sequences: [T, q_size].
at::Tensor capped_attention(const HeadsOfRows& in, const AttentionOffsets& offsets,
                            const AttentionShape& shape);
/// Writes the gradient of `in` for that of the result.
void capped_attention_backward(const at::Tensor& g, const HeadsOfRows& in, const AttentionOffsets& offsets,
                               const AttentionShape& shape, const HeadsOfRows& to);

}  // namespace qlora::ops
