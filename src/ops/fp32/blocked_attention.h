#pragma once

#include <cstdint>
#include <vector>

#include "qlora/ops/attention.h"

/// fp32 attention on the CPU in blocks of query rows: products of BLAS around a softmax that touches only
/// what a block sees, so that nothing above the diagonal is computed and no [T, T] matrix exists (Dao et al.
/// 2022 without the inner loop over keys: a block's scores fit the cache).
namespace qlora::ops::in_fp32 {

/// Heads [rows, heads, head_dim] in memory.
struct HeadRows {
    float* data;
    std::int64_t row_stride, head_stride;

    float* at(std::int64_t row, std::int64_t head) const {
        return data + row * row_stride + head * head_stride;
    }
};

/// One sequence: its n queries are the last of its m keys and values.
struct AttentionSequence {
    std::int64_t n, m;
    HeadRows q, k, v, out;
    float* logsumexp;  ///< [n, heads]
};
void attention_forward(const std::vector<AttentionSequence>& sequences, const AttentionShape& shape);

/// The same sequences with the gradient of `out` and where the others go.
struct AttentionGradients {
    HeadRows d_out, dq, dk, dv;
};
void attention_backward(const std::vector<AttentionSequence>& sequences,
                        const std::vector<AttentionGradients>& gradients, const AttentionShape& shape);

}  // namespace qlora::ops::in_fp32
