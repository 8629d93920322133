#include "qlora/ops/attention.h"

#include <torch/csrc/autograd/custom_function.h>

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// [n, heads, head_dim] -> [1, heads, n, head_dim], no copy. bf16 goes in as it is: the kernel then rounds
/// the probabilities as transformers' sdpa attention does.
at::Tensor heads_first(const at::Tensor& x) {
    return x.transpose(0, 1).unsqueeze(0);
}

/// Additive mask [n, m] for the last n of m positions, or undefined when the kernel's own causal flag (n ==
/// m) or no mask at all (n == 1) says the same.
at::Tensor window_mask(std::int64_t n, std::int64_t m, std::int64_t window, at::ScalarType dtype) {
    if (window == 0 || window > m) window = m;
    if (window == m && (n == m || n == 1)) return {};
    const at::Tensor row = at::arange(m - n, m, at::kLong).unsqueeze(1);
    const at::Tensor column = at::arange(m, at::kLong).unsqueeze(0);
    const at::Tensor hidden = column.gt(row).logical_or_(column.le(row - window));
    return at::zeros({n, m}, dtype).masked_fill_(hidden, -std::numeric_limits<float>::infinity());
}

c10::optional<at::Tensor> optional_mask(const at::Tensor& mask) {
    return mask.defined() ? c10::optional<at::Tensor>(mask) : c10::nullopt;
}

struct CausalAttention : Function<CausalAttention> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k,
                              const at::Tensor& v, std::vector<std::int64_t> offsets, std::int64_t window) {
        at::Tensor out = at::empty({q.size(0), q.size(1) * q.size(2)}, q.options());
        variable_list saved = {q, k, v, out};
        for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
            const std::int64_t begin = offsets[s], n = offsets[s + 1] - begin;
            const at::Tensor mask = window_mask(n, n, window, q.scalar_type());
            auto [y, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
                heads_first(q.narrow(0, begin, n)), heads_first(k.narrow(0, begin, n)),
                heads_first(v.narrow(0, begin, n)), 0.0, !mask.defined(), optional_mask(mask));
            out.narrow(0, begin, n).copy_(y.squeeze(0).transpose(0, 1).reshape({n, -1}));
            saved.push_back(logsumexp);
        }
        ctx->save_for_backward(saved);
        ctx->saved_data["offsets"] = std::move(offsets);
        ctx->saved_data["window"] = window;
        return out;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3];
        const std::vector<std::int64_t> offsets = ctx->saved_data["offsets"].toIntVector();
        const std::int64_t window = ctx->saved_data["window"].toInt();
        at::Tensor gq = at::empty_like(q), gk = at::empty_like(k), gv = at::empty_like(v);
        for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
            const std::int64_t begin = offsets[s], n = offsets[s + 1] - begin;
            const at::Tensor mask = window_mask(n, n, window, q.scalar_type());
            const auto piece = [&](const at::Tensor& x) { return heads_first(x.narrow(0, begin, n)); };
            const auto by_head = [&](const at::Tensor& x) {
                return heads_first(x.narrow(0, begin, n).view({n, q.size(1), q.size(2)}));
            };
            const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
                by_head(grads[0].contiguous()), piece(q), piece(k), piece(v), by_head(out), saved[4 + s], 0.0,
                !mask.defined(), optional_mask(mask));
            gq.narrow(0, begin, n).copy_(dq.squeeze(0).transpose(0, 1));
            gk.narrow(0, begin, n).copy_(dk.squeeze(0).transpose(0, 1));
            gv.narrow(0, begin, n).copy_(dv.squeeze(0).transpose(0, 1));
        }
        return {gq, gk, gv, at::Tensor(), at::Tensor()};
    }
};

}  // namespace

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::vector<std::int64_t>& offsets, std::int64_t window) {
    return CausalAttention::apply(q, k, v, offsets, window);
}

at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            std::int64_t window) {
    const std::int64_t n = q.size(0), m = k.size(0);
    const at::Tensor mask = window_mask(n, m, window, q.scalar_type());
    const bool causal = n == m && !mask.defined();
    const auto [y, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
        heads_first(q), heads_first(k), heads_first(v), 0.0, causal, optional_mask(mask));
    return y.squeeze(0).transpose(0, 1).reshape({n, -1}).to(q.scalar_type());
}

}  // namespace qlora::ops
