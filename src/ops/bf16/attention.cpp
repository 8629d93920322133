#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "../attention_backends.h"
#include "../capped_attention.h"
#include "../if_defined.h"

/// LibTorch's kernel rounds as transformers' sdpa attention does.
namespace qlora::ops::in_bf16 {
namespace {

/// q, k and v of one sequence, no copy.
struct HeadsFirst {
    HeadsFirst(const HeadsOfRows& rows, std::int64_t first, std::int64_t n)
        : q(heads_first(rows.q.narrow(0, first, n))),
          k(heads_first(rows.k.narrow(0, first, n))),
          v(heads_first(rows.v.narrow(0, first, n))) {}

    at::Tensor q, k, v;
};

}  // namespace

Attended attend(const at::Tensor& qkv, const SequenceOffsets& offsets, const AttentionShape& shape) {
    if (shape.softcap != 0.0) return {.out = capped_attention(qkv, offsets, shape)};
    const HeadsOfRows rows(qkv, shape);
    Attended result{.out = at::empty({qkv.size(0), shape.q_size()}, qkv.options()),
                    .logsumexp = at::empty({qkv.size(0), shape.heads}, at::kFloat)};
    for (std::size_t s = 0; s + 1 < offsets.host.size(); ++s) {
        const std::int64_t begin = offsets.host[s], n = offsets.host[s + 1] - begin;
        const at::Tensor mask = window_mask(n, n, shape.window, qkv.options());
        const HeadsFirst in(rows, begin, n);
        const auto [y, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
            in.q, in.k, in.v, 0.0, !mask.defined(), if_defined(mask), shape.scale);
        result.out.narrow(0, begin, n).copy_(rows_of_heads(y));
        result.logsumexp.narrow(0, begin, n).copy_(logsumexp.squeeze(0).t());
    }
    return result;
}

at::Tensor attend_backward(const at::Tensor& g, const at::Tensor& qkv, const Attended& saved,
                           const SequenceOffsets& offsets, const AttentionShape& shape) {
    if (shape.softcap != 0.0) return capped_attention_backward(g, qkv, offsets, shape);
    at::Tensor d_qkv = at::empty_like(qkv);
    const at::Tensor d_out = g.contiguous();
    const HeadsOfRows rows(qkv, shape), d_rows(d_qkv, shape);
    for (std::size_t s = 0; s + 1 < offsets.host.size(); ++s) {
        const std::int64_t begin = offsets.host[s], n = offsets.host[s + 1] - begin;
        const at::Tensor mask = window_mask(n, n, shape.window, qkv.options());
        const HeadsFirst in(rows, begin, n);
        const auto of_queries = [&](const at::Tensor& x) {
            return heads_first(x.narrow(0, begin, n).view({n, shape.heads, shape.head_dim}));
        };
        // The kernel wants logsumexp token-major, as its forward pass returns it: here that is [1, heads, n].
        const at::Tensor logsumexp = saved.logsumexp.narrow(0, begin, n).contiguous().t().unsqueeze(0);
        const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
            of_queries(d_out), in.q, in.k, in.v, of_queries(saved.out), logsumexp, 0.0, !mask.defined(),
            if_defined(mask), shape.scale);
        HeadsFirst to(d_rows, begin, n);
        to.q.copy_(dq);
        to.k.copy_(dk);
        to.v.copy_(dv);
    }
    return d_qkv;
}

at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const AttentionShape& shape) {
    if (shape.softcap != 0.0) return capped_attention(q, k, v, shape);
    const std::int64_t n = q.size(0), m = k.size(0);
    const at::Tensor mask = window_mask(n, m, shape.window, q.options());
    const auto [y, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
        heads_first(q), heads_first(k), heads_first(v), 0.0, n == m && !mask.defined(), if_defined(mask),
        shape.scale);
    return rows_of_heads(y);
}

}  // namespace qlora::ops::in_bf16
