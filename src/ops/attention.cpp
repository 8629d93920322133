#include "qlora/ops/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "blocked_attention.h"
#include "cuda_attention.h"
#include "if_defined.h"
#include "qlora/ops/gemm.h"
#include "qlora/ops/norm.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

Rows rows_of(const at::Tensor& x, std::int64_t first_row, std::int64_t column) {
    return {.data = const_cast<float*>(x.const_data_ptr<float>()) + first_row * x.stride(0) + column,
            .stride = x.stride(0)};
}

/// The sequences of a batch whose q, k and v lie side by side.
std::vector<AttentionSequence> sequences_of(const at::Tensor& qkv, const at::Tensor& out,
                                            const at::Tensor& logsumexp,
                                            const std::vector<std::int64_t>& offsets,
                                            const AttentionShape& shape) {
    std::vector<AttentionSequence> sequences;
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
        const std::int64_t first = offsets[s], n = offsets[s + 1] - first;
        sequences.push_back({.n = n,
                             .m = n,
                             .q = rows_of(qkv, first, 0),
                             .k = rows_of(qkv, first, shape.q_size()),
                             .v = rows_of(qkv, first, shape.q_size() + shape.kv_size()),
                             .out = rows_of(out, first, 0),
                             .logsumexp = rows_of(logsumexp, first, 0).data});
    }
    return sequences;
}

/// Additive mask [n, m] for the last n of m positions, or undefined when the kernel's own causal flag (n ==
/// m) or no mask at all (n == 1) says the same.
at::Tensor window_mask(std::int64_t n, std::int64_t m, std::int64_t window,
                       const at::TensorOptions& options) {
    if (window == 0 || window > m) window = m;
    if (window == m && (n == m || n == 1)) return {};
    const at::TensorOptions places = options.dtype(at::kLong);
    const at::Tensor row = at::arange(m - n, m, places).unsqueeze(1);
    const at::Tensor column = at::arange(m, places).unsqueeze(0);
    const at::Tensor hidden = column.gt(row).logical_or_(column.le(row - window));
    return at::zeros({n, m}, options).masked_fill_(hidden, -std::numeric_limits<float>::infinity());
}

c10::optional<at::Tensor> optional_mask(const at::Tensor& mask) {
    return mask.defined() ? c10::optional<at::Tensor>(mask) : c10::nullopt;
}

/// Rows of the columns of some heads as ATen's kernel wants them: [1, heads, n, head_dim], no copy.
at::Tensor heads_first(const at::Tensor& x, std::int64_t first_row, std::int64_t n, std::int64_t column,
                       std::int64_t heads, std::int64_t head_dim) {
    const at::Tensor columns = x.narrow(0, first_row, n).narrow(1, column, heads * head_dim);
    return columns.view({n, heads, head_dim}).transpose(0, 1).unsqueeze(0);
}

/// q, k and v of one sequence for ATen's kernel, which in bf16 rounds as transformers' sdpa attention does.
struct HeadsFirst {
    HeadsFirst(const at::Tensor& qkv, std::int64_t first, std::int64_t n, const AttentionShape& shape)
        : q(heads_first(qkv, first, n, 0, shape.heads, shape.head_dim)),
          k(heads_first(qkv, first, n, shape.q_size(), shape.kv_heads, shape.head_dim)),
          v(heads_first(qkv, first, n, shape.q_size() + shape.kv_size(), shape.kv_heads, shape.head_dim)) {}

    at::Tensor q, k, v;
};

Attended attend(const at::Tensor& qkv, const SequenceOffsets& sequences, const AttentionShape& shape) {
    if (qkv.is_cuda()) return cuda_attend(qkv, sequences, shape);
    const std::vector<std::int64_t>& offsets = sequences.host;
    const std::int64_t tokens = qkv.size(0);
    Attended result{.out = at::empty({tokens, shape.q_size()}, qkv.options()),
                    .logsumexp = at::empty({tokens, shape.heads}, at::kFloat)};
    if (is_fp32(qkv)) {
        attention_forward(sequences_of(qkv, result.out, result.logsumexp, offsets, shape), shape);
        return result;
    }
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
        const std::int64_t begin = offsets[s], n = offsets[s + 1] - begin;
        const at::Tensor mask = window_mask(n, n, shape.window, qkv.options());
        const HeadsFirst in(qkv, begin, n, shape);
        const auto [y, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
            in.q, in.k, in.v, 0.0, !mask.defined(), optional_mask(mask));
        result.out.narrow(0, begin, n).copy_(y.squeeze(0).transpose(0, 1).reshape({n, -1}));
        result.logsumexp.narrow(0, begin, n).copy_(logsumexp.squeeze(0).t());
    }
    return result;
}

/// Gradient of the rotated qkv.
at::Tensor attend_backward(const at::Tensor& g, const at::Tensor& qkv, const Attended& saved,
                           const SequenceOffsets& sequences, const AttentionShape& shape) {
    if (qkv.is_cuda()) return cuda_attend_backward(g, qkv, saved, sequences, shape);
    const std::vector<std::int64_t>& offsets = sequences.host;
    at::Tensor d_qkv = at::empty_like(qkv);
    const at::Tensor d_out = g.contiguous();
    if (is_fp32(qkv)) {
        std::vector<AttentionGradients> gradients;
        for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
            gradients.push_back({.d_out = rows_of(d_out, offsets[s], 0),
                                 .dq = rows_of(d_qkv, offsets[s], 0),
                                 .dk = rows_of(d_qkv, offsets[s], shape.q_size()),
                                 .dv = rows_of(d_qkv, offsets[s], shape.q_size() + shape.kv_size())});
        }
        attention_backward(sequences_of(qkv, saved.out, saved.logsumexp, offsets, shape), gradients, shape);
        return d_qkv;
    }
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
        const std::int64_t begin = offsets[s], n = offsets[s + 1] - begin;
        const at::Tensor mask = window_mask(n, n, shape.window, qkv.options());
        const HeadsFirst in(qkv, begin, n, shape);
        const auto of_queries = [&](const at::Tensor& x) {
            return heads_first(x, begin, n, 0, shape.heads, shape.head_dim);
        };
        // The kernel wants logsumexp token-major, as its forward pass returns it: here that is [1, heads, n].
        const at::Tensor logsumexp = saved.logsumexp.narrow(0, begin, n).contiguous().t().unsqueeze(0);
        const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
            of_queries(d_out), in.q, in.k, in.v, of_queries(saved.out), logsumexp, 0.0, !mask.defined(),
            optional_mask(mask));
        HeadsFirst to(d_qkv, begin, n, shape);
        to.q.copy_(dq);
        to.k.copy_(dk);
        to.v.copy_(dv);
    }
    return d_qkv;
}

/// The rows of all heads from `column` on, as a copy [T * heads, head_dim].
at::Tensor head_rows(const at::Tensor& qkv, std::int64_t column, std::int64_t heads, std::int64_t head_dim) {
    return qkv.narrow(1, column, heads * head_dim).reshape({qkv.size(0) * heads, head_dim});
}

void set_head_rows(at::Tensor& qkv, std::int64_t column, const at::Tensor& rows) {
    const std::int64_t columns = rows.numel() / qkv.size(0);
    qkv.narrow(1, column, columns).copy_(rows.view({qkv.size(0), columns}));
}

/// What the head norms keep for backward.
struct NormedHeads {
    at::Tensor qkv;  ///< a copy with normed q and k
    at::Tensor q_inverse, k_inverse;
};

NormedHeads norm_heads(const at::Tensor& qkv, const AttentionShape& shape, const HeadNorms& norms) {
    NormedHeads out{.qkv = qkv.clone()};
    const NormResult q = norm_forward(head_rows(qkv, 0, shape.heads, shape.head_dim),
                                      {.weight = norms.q_weight, .bias = {}, .eps = norms.eps});
    const NormResult k = norm_forward(head_rows(qkv, shape.q_size(), shape.kv_heads, shape.head_dim),
                                      {.weight = norms.k_weight, .bias = {}, .eps = norms.eps});
    set_head_rows(out.qkv, 0, q.y);
    set_head_rows(out.qkv, shape.q_size(), k.y);
    out.q_inverse = q.statistics.inverse;
    out.k_inverse = k.statistics.inverse;
    return out;
}

/// Turns the gradient of normed heads into that of raw ones; returns the weight's if wanted.
at::Tensor norm_heads_backward(at::Tensor& d_qkv, const at::Tensor& raw, std::int64_t column,
                               std::int64_t heads, std::int64_t head_dim, const at::Tensor& weight,
                               const at::Tensor& inverse, bool wants_weight) {
    const at::Tensor dy = head_rows(d_qkv, column, heads, head_dim);
    const at::Tensor x = head_rows(raw, column, heads, head_dim);
    const Norm norm{.weight = weight, .bias = {}};
    const NormStatistics statistics{.inverse = inverse, .mean = {}};
    at::Tensor d_weight;
    if (wants_weight) d_weight = norm_weight_gradient(dy, x, norm, statistics);
    set_head_rows(d_qkv, column, norm_backward(dy, x, norm, statistics));
    return d_weight;
}

void rotate_heads(at::Tensor& qkv, const RopeTable& table, const AttentionShape& shape,
                  RopeDirection direction) {
    if (!table.cos.defined()) return;
    rope_(qkv, shape.heads + shape.kv_heads, shape.head_dim, table, direction);
}

/// The offsets in the saved data of a node.
struct OffsetsHolder : torch::CustomClassHolder {
    explicit OffsetsHolder(SequenceOffsets held) : value(std::move(held)) {}
    SequenceOffsets value;
};

struct RotaryAttention : Function<RotaryAttention> {
    /// Places of the saved tensors; the last five only with head norms.
    enum Saved {
        kTurned,
        kOut,
        kLogsumexp,
        kSeed,
        kOffset,
        kCos,
        kSin,
        kRaw,
        kQueryWeight,
        kKeyWeight,
        kQueryInverse,
        kKeyInverse
    };

    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv,
                              const std::optional<at::Tensor>& cos, const std::optional<at::Tensor>& sin,
                              at::TensorList norm_weights, const SequenceOffsets& offsets,
                              const AttentionShape& shape, double eps) {
        at::Tensor turned = qkv;
        variable_list of_norms;
        if (!norm_weights.empty()) {
            NormedHeads normed = norm_heads(
                qkv, shape, {.q_weight = norm_weights[0], .k_weight = norm_weights[1], .eps = eps});
            turned = normed.qkv;
            of_norms = {qkv, norm_weights[0], norm_weights[1], normed.q_inverse, normed.k_inverse};
        }
        const RopeTable table{.cos = cos.value_or(at::Tensor()), .sin = sin.value_or(at::Tensor())};
        rotate_heads(turned, table, shape, RopeDirection::kForward);
        const Attended attended = attend(turned, offsets, shape);
        variable_list saved = {turned,          attended.out, attended.logsumexp, attended.seed,
                               attended.offset, table.cos,    table.sin};
        saved.insert(saved.end(), of_norms.begin(), of_norms.end());
        ctx->save_for_backward(saved);
        ctx->saved_data["offsets"] = c10::IValue::make_capsule(c10::make_intrusive<OffsetsHolder>(offsets));
        ctx->saved_data["shape"] =
            std::vector<std::int64_t>{shape.heads, shape.kv_heads, shape.head_dim, shape.window};
        return attended.out;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const auto offsets =
            c10::static_intrusive_pointer_cast<OffsetsHolder>(ctx->saved_data["offsets"].toCapsule());
        const std::vector<std::int64_t> sizes = ctx->saved_data["shape"].toIntVector();
        const AttentionShape shape{
            .heads = sizes[0], .kv_heads = sizes[1], .head_dim = sizes[2], .window = sizes[3]};
        const Attended attended{.out = saved[kOut],
                                .logsumexp = saved[kLogsumexp],
                                .seed = saved[kSeed],
                                .offset = saved[kOffset]};
        at::Tensor d_qkv = attend_backward(grads[0], saved[kTurned], attended, offsets->value, shape);
        rotate_heads(d_qkv, {.cos = saved[kCos], .sin = saved[kSin]}, shape, RopeDirection::kBackward);
        if (saved.size() == kRaw) return {d_qkv, {}, {}, {}, {}, {}};  // no norm weights among the arguments
        const at::Tensor d_q_weight =
            norm_heads_backward(d_qkv, saved[kRaw], 0, shape.heads, shape.head_dim, saved[kQueryWeight],
                                saved[kQueryInverse], ctx->needs_input_grad(3));
        const at::Tensor d_k_weight =
            norm_heads_backward(d_qkv, saved[kRaw], shape.q_size(), shape.kv_heads, shape.head_dim,
                                saved[kKeyWeight], saved[kKeyInverse], ctx->needs_input_grad(4));
        return {d_qkv, {}, {}, d_q_weight, d_k_weight, {}, {}, {}};
    }
};

}  // namespace

std::int64_t SequenceOffsets::longest() const {
    std::int64_t most = 0;
    for (std::size_t s = 0; s + 1 < host.size(); ++s) most = std::max(most, host[s + 1] - host[s]);
    return most;
}

at::Tensor rotary_attention(const at::Tensor& qkv, const RopeTable& table, const SequenceOffsets& offsets,
                            const AttentionShape& shape, const HeadNorms* norms) {
    std::vector<at::Tensor> weights;
    if (norms != nullptr) weights = {norms->q_weight, norms->k_weight};
    return RotaryAttention::apply(qkv, if_defined(table.cos), if_defined(table.sin), at::TensorList(weights),
                                  offsets, shape, norms == nullptr ? 0.0 : norms->eps);
}

at::Tensor rotated(const at::Tensor& qkv, const RopeTable& table, const AttentionShape& shape,
                   const HeadNorms* norms) {
    const at::AutoGradMode no_gradients(false);
    at::Tensor turned = norms == nullptr ? qkv.detach() : norm_heads(qkv, shape, *norms).qkv;
    rotate_heads(turned, table, shape, RopeDirection::kForward);
    return turned;
}

at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const AttentionShape& shape) {
    const std::int64_t n = q.size(0), m = k.size(0);
    if (q.is_cuda()) {
        const at::Tensor mask = window_mask(n, m, shape.window, q.options());
        return at::scaled_dot_product_attention(heads_first(q, 0, n, 0, shape.heads, shape.head_dim),
                                                k.transpose(0, 1).unsqueeze(0),
                                                v.transpose(0, 1).unsqueeze(0), optional_mask(mask), 0.0,
                                                n == m && !mask.defined(), std::nullopt, true)
            .squeeze(0)
            .transpose(0, 1)
            .reshape({n, -1});
    }
    if (is_fp32(q)) {
        at::Tensor out = at::empty({n, shape.q_size()}, q.options());
        const at::Tensor logsumexp = at::empty({n, shape.heads}, q.options());
        const at::Tensor keys = k.view({m, shape.kv_size()}), values = v.view({m, shape.kv_size()});
        attention_forward({{.n = n,
                            .m = m,
                            .q = rows_of(q, 0, 0),
                            .k = rows_of(keys, 0, 0),
                            .v = rows_of(values, 0, 0),
                            .out = rows_of(out, 0, 0),
                            .logsumexp = rows_of(logsumexp, 0, 0).data}},
                          shape);
        return out;
    }
    const at::Tensor mask = window_mask(n, m, shape.window, q.options());
    const bool causal = n == m && !mask.defined();
    const auto [y, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
        heads_first(q, 0, n, 0, shape.heads, shape.head_dim), k.transpose(0, 1).unsqueeze(0),
        v.transpose(0, 1).unsqueeze(0), 0.0, causal, optional_mask(mask));
    return y.squeeze(0).transpose(0, 1).reshape({n, -1});
}

}  // namespace qlora::ops
