#pragma once

#include <cstdint>
#include <vector>

#include "qlora/ops/attention.h"

/// fp32 attention on the CPU in blocks of query rows: products of BLAS around a softmax that touches only
/// what a block sees, so that nothing above the diagonal is computed and no [T, T] matrix exists (Dao et al.
/// 2022 without the inner loop over keys: a block's scores fit the cache).
namespace qlora::ops {

/// Rows of a float matrix in memory.
struct Rows {
    float* data;
    std::int64_t stride;

    float* row(std::int64_t index) const { return data + index * stride; }
};

/// One sequence: its n queries are the last of its m keys and values. Heads lie side by side in a row.
struct AttentionSequence {
    std::int64_t n, m;
    Rows q, k, v, out;  ///< [n, q_size], [m, kv_size], [m, kv_size], [n, q_size]
    float* logsumexp;   ///< [n, heads]
};
void attention_forward(const std::vector<AttentionSequence>& sequences, const AttentionShape& shape);

/// The same sequences (n = m) with the gradient of `out` and where the others go.
struct AttentionGradients {
    Rows d_out, dq, dk, dv;
};
void attention_backward(const std::vector<AttentionSequence>& sequences,
                        const std::vector<AttentionGradients>& gradients, const AttentionShape& shape);

}  // namespace qlora::ops
