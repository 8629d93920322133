#include "qlora/ops/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "attention_backends.h"
#include "if_defined.h"
#include "qlora/ops/gemm.h"
#include "qlora/ops/norm.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

Attended attend(const at::Tensor& qkv, const SequenceOffsets& offsets, const AttentionShape& shape) {
    if (qkv.is_cuda()) return on_device::attend(qkv, offsets, shape);
    return is_fp32(qkv) ? in_fp32::attend(qkv, offsets, shape) : in_bf16::attend(qkv, offsets, shape);
}

/// Gradient of the rotated qkv.
at::Tensor attend_backward(const at::Tensor& g, const at::Tensor& qkv, const Attended& saved,
                           const SequenceOffsets& offsets, const AttentionShape& shape) {
    if (qkv.is_cuda()) return on_device::attend_backward(g, qkv, saved, offsets, shape);
    return is_fp32(qkv) ? in_fp32::attend_backward(g, qkv, saved, offsets, shape)
                        : in_bf16::attend_backward(g, qkv, saved, offsets, shape);
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
    TORCH_CHECK(!shape.per_head, "norms of heads whose q, k and v lie head by head are not built");
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
    if (shape.per_head) {
        rope_(qkv,
              {.heads = 2,
               .head_dim = shape.head_dim,
               .groups = shape.heads,
               .group_stride = 3 * shape.head_dim},
              table, direction);
    } else {
        rope_(qkv, {.heads = shape.heads + shape.kv_heads, .head_dim = shape.head_dim}, table, direction);
    }
}

/// What a node keeps besides tensors.
struct Settings {
    SequenceOffsets offsets;
    AttentionShape shape;
    bool turns_pairs;
    double eps;
};
struct SettingsHolder : torch::CustomClassHolder {
    explicit SettingsHolder(Settings held) : value(std::move(held)) {}
    Settings value;
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
                              at::TensorList norm_weights, const Settings& settings) {
        const AttentionShape& shape = settings.shape;
        at::Tensor turned = qkv;
        variable_list of_norms;
        if (!norm_weights.empty()) {
            NormedHeads normed = norm_heads(
                qkv, shape, {.q_weight = norm_weights[0], .k_weight = norm_weights[1], .eps = settings.eps});
            turned = normed.qkv;
            of_norms = {qkv, norm_weights[0], norm_weights[1], normed.q_inverse, normed.k_inverse};
        }
        const RopeTable table{.cos = cos.value_or(at::Tensor()),
                              .sin = sin.value_or(at::Tensor()),
                              .pairs = settings.turns_pairs};
        rotate_heads(turned, table, shape, RopeDirection::kForward);
        const Attended attended = attend(turned, settings.offsets, shape);
        variable_list saved = {turned,          attended.out, attended.logsumexp, attended.seed,
                               attended.offset, table.cos,    table.sin};
        saved.insert(saved.end(), of_norms.begin(), of_norms.end());
        ctx->save_for_backward(saved);
        ctx->saved_data["settings"] =
            c10::IValue::make_capsule(c10::make_intrusive<SettingsHolder>(settings));
        return attended.out;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const auto holder =
            c10::static_intrusive_pointer_cast<SettingsHolder>(ctx->saved_data["settings"].toCapsule());
        const Settings& settings = holder->value;
        const AttentionShape& shape = settings.shape;
        const Attended attended{.out = saved[kOut],
                                .logsumexp = saved[kLogsumexp],
                                .seed = saved[kSeed],
                                .offset = saved[kOffset]};
        at::Tensor d_qkv = attend_backward(grads[0], saved[kTurned], attended, settings.offsets, shape);
        const RopeTable table{.cos = saved[kCos], .sin = saved[kSin], .pairs = settings.turns_pairs};
        rotate_heads(d_qkv, table, shape, RopeDirection::kBackward);
        if (saved.size() == kRaw) return {d_qkv, {}, {}, {}};  // no norm weights among the arguments
        const at::Tensor d_q_weight =
            norm_heads_backward(d_qkv, saved[kRaw], 0, shape.heads, shape.head_dim, saved[kQueryWeight],
                                saved[kQueryInverse], ctx->needs_input_grad(3));
        const at::Tensor d_k_weight =
            norm_heads_backward(d_qkv, saved[kRaw], shape.q_size(), shape.kv_heads, shape.head_dim,
                                saved[kKeyWeight], saved[kKeyInverse], ctx->needs_input_grad(4));
        return {d_qkv, {}, {}, d_q_weight, d_k_weight, {}};
    }
};

/// Neighbouring heads of a row, [T, heads, head_dim].
at::Tensor columns_of(const at::Tensor& rows, std::int64_t column, std::int64_t heads,
                      std::int64_t head_dim) {
    return rows.narrow(1, column, heads * head_dim).unflatten(1, {heads, head_dim});
}

}  // namespace

HeadsOfRows::HeadsOfRows(const at::Tensor& qkv, const AttentionShape& shape) {
    const std::int64_t dim = shape.head_dim;
    if (shape.per_head) {
        TORCH_CHECK(shape.heads == shape.kv_heads, "q, k and v head by head need as many heads of each");
        const at::Tensor heads = columns_of(qkv, 0, shape.heads, 3 * dim);
        q = heads.narrow(2, 0, dim);
        k = heads.narrow(2, dim, dim);
        v = heads.narrow(2, 2 * dim, dim);
    } else {
        q = columns_of(qkv, 0, shape.heads, dim);
        k = columns_of(qkv, shape.q_size(), shape.kv_heads, dim);
        v = columns_of(qkv, shape.q_size() + shape.kv_size(), shape.kv_heads, dim);
    }
}

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
                                  Settings{.offsets = offsets,
                                           .shape = shape,
                                           .turns_pairs = table.pairs,
                                           .eps = norms == nullptr ? 0.0 : norms->eps});
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
    if (q.is_cuda()) return on_device::cached_attention(q, k, v, shape);
    return is_fp32(q) ? in_fp32::cached_attention(q, k, v, shape) : in_bf16::cached_attention(q, k, v, shape);
}

}  // namespace qlora::ops
