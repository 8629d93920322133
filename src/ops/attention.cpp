#include "qlora/ops/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "attention_backends.h"
#include "head_norms.h"
#include "if_defined.h"
#include "qlora/ops/gemm.h"
#include "saved_value.h"

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
    /// Of the head norms all but weights and biases; none: heads have no norms.
    std::optional<HeadNorms> norms;
};

/// Weights of q and k, then biases if there are any.
std::vector<at::Tensor> tensors_of(const HeadNorms& norms) {
    TORCH_CHECK(norms.q.bias.defined() == norms.k.bias.defined(), "biases of head norms go together");
    std::vector<at::Tensor> out = {norms.q.weight, norms.k.weight};
    if (norms.q.bias.defined()) out.insert(out.end(), {norms.q.bias, norms.k.bias});
    return out;
}

HeadNorms without_tensors(HeadNorms norms) {
    norms.q.weight = norms.k.weight = norms.q.bias = norms.k.bias = at::Tensor();
    return norms;
}

/// Weights and biases in the order of tensors_of.
HeadNorms with_tensors(HeadNorms norms, at::TensorList tensors) {
    norms.q.weight = tensors[0];
    norms.k.weight = tensors[1];
    if (tensors.size() > 2) norms.q.bias = tensors[2], norms.k.bias = tensors[3];
    return norms;
}

struct RotaryAttention : Function<RotaryAttention> {
    /// Places of the saved tensors. With head norms: the raw qkv, four statistics, weights and biases.
    enum Saved {
        kTurned,
        kOut,
        kLogsumexp,
        kSeed,
        kOffset,
        kCos,
        kSin,
        kRaw,
        kQueryInverse,
        kQueryMean,
        kKeyInverse,
        kKeyMean,
        kNormTensors
    };

    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv,
                              const std::optional<at::Tensor>& cos, const std::optional<at::Tensor>& sin,
                              at::TensorList norm_tensors, const Settings& settings) {
        const AttentionShape& shape = settings.shape;
        at::Tensor turned = qkv;
        variable_list of_norms;
        if (settings.norms) {
            const NormedHeads normed = norm_heads(qkv, shape, with_tensors(*settings.norms, norm_tensors));
            turned = normed.qkv;
            const auto& [q, k] = normed.statistics;
            of_norms = {qkv, q.inverse, q.mean, k.inverse, k.mean};
            of_norms.insert(of_norms.end(), norm_tensors.begin(), norm_tensors.end());
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
        save_value(ctx, "settings", settings);
        return attended.out;
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const Settings& settings = saved_value<Settings>(ctx, "settings");
        const AttentionShape& shape = settings.shape;
        const Attended attended{.out = saved[kOut],
                                .logsumexp = saved[kLogsumexp],
                                .seed = saved[kSeed],
                                .offset = saved[kOffset]};
        at::Tensor d_qkv = attend_backward(grads[0], saved[kTurned], attended, settings.offsets, shape);
        const RopeTable table{.cos = saved[kCos], .sin = saved[kSin], .pairs = settings.turns_pairs};
        rotate_heads(d_qkv, table, shape, RopeDirection::kBackward);
        variable_list result = {d_qkv, {}, {}};
        if (settings.norms) {
            const at::TensorList tensors = at::TensorList(saved).slice(kNormTensors);
            // Among the arguments that are tensors, which those of an absent table are not.
            const std::size_t first = table.cos.defined() ? 3 : 1;
            const auto wants = [&](std::size_t i) {
                return i < tensors.size() && ctx->needs_input_grad(first + i);
            };
            const HeadNormGradients of = norm_heads_backward(
                d_qkv, saved[kRaw], shape, with_tensors(*settings.norms, tensors),
                {.q = {.inverse = saved[kQueryInverse], .mean = saved[kQueryMean]},
                 .k = {.inverse = saved[kKeyInverse], .mean = saved[kKeyMean]}},
                {.q_weight = wants(0), .k_weight = wants(1), .q_bias = wants(2), .k_bias = wants(3)});
            result.insert(result.end(), {of.q_weight, of.k_weight});
            if (tensors.size() > 2) result.insert(result.end(), {of.q_bias, of.k_bias});
        }
        result.emplace_back();  // of the settings
        return result;
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
    const std::vector<at::Tensor> tensors = norms == nullptr ? std::vector<at::Tensor>() : tensors_of(*norms);
    Settings settings{.offsets = offsets, .shape = shape, .turns_pairs = table.pairs, .norms = {}};
    if (norms != nullptr) settings.norms = without_tensors(*norms);
    return RotaryAttention::apply(qkv, if_defined(table.cos), if_defined(table.sin), at::TensorList(tensors),
                                  settings);
}

at::Tensor rotated(const at::Tensor& qkv, const RopeTable& table, const AttentionShape& shape,
                   const HeadNorms* norms) {
    const at::AutoGradMode no_gradients(false);
    at::Tensor turned = norms == nullptr ? qkv.detach() : norm_heads(qkv, shape, *norms).qkv;
    rotate_heads(turned, table, shape, RopeDirection::kForward);
    return turned;
}

at::Tensor cached_attention(const at::Tensor& q, const SequenceOffsets& offsets,
                            const std::vector<KeysValues>& cached, const AttentionShape& shape) {
    TORCH_CHECK(cached.size() + 1 == offsets.host.size(), "cached_attention: keys and values of ",
                cached.size(), " sequences for ", offsets.host.size(), " offsets");
    if (!q.is_cuda() && is_fp32(q)) return in_fp32::cached_attention(q, offsets, cached, shape);
    at::Tensor out = at::empty({q.size(0), shape.q_size()}, q.options());
    for (std::size_t s = 0; s < cached.size(); ++s) {
        const std::int64_t begin = offsets.host[s], n = offsets.host[s + 1] - begin;
        const at::Tensor rows = q.narrow(0, begin, n);
        out.narrow(0, begin, n)
            .copy_(q.is_cuda() ? on_device::cached_attention(rows, cached[s], shape)
                               : in_bf16::cached_attention(rows, cached[s], shape));
    }
    return out;
}

}  // namespace qlora::ops
