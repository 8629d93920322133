#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

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

std::vector<AttentionSequence> sequences_of(const at::Tensor& qkv, const at::Tensor& out,
                                            const at::Tensor& logsumexp,
                                            const std::vector<std::int64_t>& offsets,
                                            const AttentionShape& shape) {
    const HeadsOfRows in(qkv, shape);
    const at::Tensor of_out = heads_of(out, shape);
    float* sums = const_cast<float*>(logsumexp.const_data_ptr<float>());
    std::vector<AttentionSequence> sequences;
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
        const std::int64_t first = offsets[s], n = offsets[s + 1] - first;
        sequences.push_back({.n = n,
                             .m = n,
                             .q = head_rows_from(in.q, first),
                             .k = head_rows_from(in.k, first),
                             .v = head_rows_from(in.v, first),
                             .out = head_rows_from(of_out, first),
                             .logsumexp = sums + first * shape.heads});
    }
    return sequences;
}

}  // namespace

Attended attend(const at::Tensor& qkv, const SequenceOffsets& offsets, const AttentionShape& shape) {
    Attended result{.out = at::empty({qkv.size(0), shape.q_size()}, qkv.options()),
                    .logsumexp = at::empty({qkv.size(0), shape.heads}, qkv.options())};
    attention_forward(sequences_of(qkv, result.out, result.logsumexp, offsets.host, shape), shape);
    return result;
}

at::Tensor attend_backward(const at::Tensor& g, const at::Tensor& qkv, const Attended& saved,
                           const SequenceOffsets& offsets, const AttentionShape& shape) {
    at::Tensor d_qkv = at::empty_like(qkv);
    const at::Tensor d_out = heads_of(g.contiguous(), shape);
    const HeadsOfRows to(d_qkv, shape);
    std::vector<AttentionGradients> gradients;
    for (std::size_t s = 0; s + 1 < offsets.host.size(); ++s) {
        const std::int64_t first = offsets.host[s];
        gradients.push_back({.d_out = head_rows_from(d_out, first),
                             .dq = head_rows_from(to.q, first),
                             .dk = head_rows_from(to.k, first),
                             .dv = head_rows_from(to.v, first)});
    }
    attention_backward(sequences_of(qkv, saved.out, saved.logsumexp, offsets.host, shape), gradients, shape);
    return d_qkv;
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
