#pragma once

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <string>
#include <vector>

#include "ops/reference.h"
#include "qlora/ops/attention.h"

namespace qlora::ops::test {

// Two chained products, of head_dim and of sequence-length terms, around a softmax in fp32.
constexpr double kAttentionBound = 5e-6;

struct AttentionCase {
    std::string name;
    std::int64_t heads, kv_heads, head_dim;
    std::vector<std::int64_t> offsets;
    std::int64_t window;
    double scale = 0.0;  // 0: 1 / sqrt(head_dim)
    bool per_head = false;
    double softcap = 0.0;

    AttentionShape shape() const {
        return {.heads = heads,
                .kv_heads = kv_heads,
                .head_dim = head_dim,
                .window = window,
                .scale = scale != 0.0 ? scale : 1.0 / std::sqrt(static_cast<double>(head_dim)),
                .softcap = softcap,
                .per_head = per_head};
    }
};

inline std::ostream& operator<<(std::ostream& out, const AttentionCase& value) {
    return out << value.name;
}

/// Rows in the order of the case.
inline at::Tensor rows_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const AttentionCase& c) {
    const std::int64_t tokens = q.size(0);
    if (c.per_head) return at::cat({q, k, v}, 2).reshape({tokens, -1});
    const auto rows = [&](const at::Tensor& x) { return x.reshape({tokens, -1}); };
    return at::cat({rows(q), rows(k), rows(v)}, 1);
}

/// Attention alone, turned by no angle.
inline at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const std::vector<std::int64_t>& offsets, const AttentionCase& c) {
    return rotary_attention(rows_of(q, k, v, c), {}, offsets, c.shape(), nullptr);
}

/// The definition, sequence by sequence and head by head, with every score written out.
inline at::Tensor exact_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const AttentionCase& c) {
    std::vector<at::Tensor> sequences;
    for (std::size_t s = 0; s + 1 < c.offsets.size(); ++s) {
        const std::int64_t begin = c.offsets[s], n = c.offsets[s + 1] - begin;
        const at::Tensor place = at::arange(n, at::kLong), row = place.unsqueeze(1);
        at::Tensor hidden = place.gt(row);
        if (c.window > 0) hidden = hidden.logical_or(place.le(row - c.window));
        std::vector<at::Tensor> heads;
        for (std::int64_t head = 0; head < c.heads; ++head) {
            const std::int64_t shared = head / (c.heads / c.kv_heads);
            const at::Tensor queries = q.narrow(0, begin, n).select(1, head);
            const at::Tensor keys = k.narrow(0, begin, n).select(1, shared);
            const at::Tensor values = v.narrow(0, begin, n).select(1, shared);
            at::Tensor scores = at::mm(queries, keys.t()) * c.shape().scale;
            if (c.softcap != 0.0) scores = c.softcap * at::tanh(scores / c.softcap);
            heads.push_back(at::mm(at::softmax(scores.masked_fill(hidden, -INFINITY), 1), values));
        }
        sequences.push_back(at::cat(heads, 1));
    }
    return at::cat(sequences, 0);
}

}  // namespace qlora::ops::test
