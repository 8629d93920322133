#include <ATen/ops/empty.h>

#include "../attention_backends.h"
#include "blocked_attention.h"

namespace qlora::ops::in_fp32 {
namespace {

/// Heads [T, heads, head_dim] from a token on.
HeadRows head_rows_from(const at::Tensor& heads, std::int64_t first) {
    return {.data = const_cast<float*>(heads.const_data_ptr<float>()) + first * heads.stride(0),
            .row_stride = heads.stride(0),
            .head_stride = heads.stride(1)};
}

/// Rows [T, heads * head_dim].
at::Tensor heads_of(const at::Tensor& rows, const AttentionShape& shape) {
    return rows.view({rows.size(0), shape.heads, shape.head_dim});
}

std::vector<AttentionSequence> sequences_of(const HeadsOfRows& in, const at::Tensor& out,
                                            const at::Tensor& logsumexp, const AttentionOffsets& offsets,
                                            const AttentionShape& shape) {
    const at::Tensor of_out = heads_of(out, shape);
    float* sums = const_cast<float*>(logsumexp.const_data_ptr<float>());
    std::vector<AttentionSequence> sequences;
    for (std::size_t s = 0; s < offsets.sequences(); ++s) {
        const std::int64_t first = offsets.first_query(s);
        sequences.push_back({.n = offsets.n(s),
                             .m = offsets.m(s),
                             .q = head_rows_from(in.q, first),
                             .k = head_rows_from(in.k, offsets.first_key(s)),
                             .v = head_rows_from(in.v, offsets.first_key(s)),
                             .out = head_rows_from(of_out, first),
                             .logsumexp = sums + first * shape.heads});
    }
    return sequences;
}

}  // namespace

Attended attend(const HeadsOfRows& in, const AttentionOffsets& offsets, const AttentionShape& shape) {
    const std::int64_t tokens = in.q.size(0);
    Attended result{.out = at::empty({tokens, shape.q_size()}, in.q.options()),
                    .logsumexp = at::empty({tokens, shape.heads}, in.q.options())};
    attention_forward(sequences_of(in, result.out, result.logsumexp, offsets, shape), shape);
    return result;
}

void attend_backward(const at::Tensor& g, const HeadsOfRows& in, const Attended& saved,
                     const AttentionOffsets& offsets, const AttentionShape& shape, const HeadsOfRows& to) {
    const at::Tensor d_out = heads_of(g.contiguous(), shape);
    std::vector<AttentionGradients> gradients;
    for (std::size_t s = 0; s < offsets.sequences(); ++s) {
        gradients.push_back({.d_out = head_rows_from(d_out, offsets.first_query(s)),
                             .dq = head_rows_from(to.q, offsets.first_query(s)),
                             .dk = head_rows_from(to.k, offsets.first_key(s)),
                             .dv = head_rows_from(to.v, offsets.first_key(s))});
    }
    attention_backward(sequences_of(in, saved.out, saved.logsumexp, offsets, shape), gradients, shape);
}

at::Tensor cached_attention(const at::Tensor& q, const SequenceOffsets& offsets,
                            const std::vector<KeysValues>& cached, const AttentionShape& shape) {
    at::Tensor out = at::empty({q.size(0), shape.q_size()}, q.options());
    at::Tensor logsumexp = at::empty({q.size(0), shape.heads}, q.options());
    const at::Tensor of_out = heads_of(out, shape);
    std::vector<AttentionSequence> sequences;
    for (std::size_t s = 0; s < cached.size(); ++s) {
        const std::int64_t first = offsets.host[s];
        sequences.push_back({.n = offsets.host[s + 1] - first,
                             .m = cached[s].keys.size(0),
                             .q = head_rows_from(q, first),
                             .k = head_rows_from(cached[s].keys, 0),
                             .v = head_rows_from(cached[s].values, 0),
                             .out = head_rows_from(of_out, first),
                             .logsumexp = logsumexp.mutable_data_ptr<float>() + first * shape.heads});
    }
    attention_forward(sequences, shape);
    return out;
}

}  // namespace qlora::ops::in_fp32
