#include "qlora/ops/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
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

Attended attend(const HeadsOfRows& in, const AttentionOffsets& offsets, const AttentionShape& shape) {
    if (in.q.is_cuda()) return on_device::attend(in, offsets, shape);
    return is_fp32(in.q) ? in_fp32::attend(in, offsets, shape) : in_bf16::attend(in, offsets, shape);
}

void attend_backward(const at::Tensor& g, const HeadsOfRows& in, const Attended& saved,
                     const AttentionOffsets& offsets, const AttentionShape& shape, const HeadsOfRows& to) {
    if (in.q.is_cuda()) return on_device::attend_backward(g, in, saved, offsets, shape, to);
    if (is_fp32(in.q)) return in_fp32::attend_backward(g, in, saved, offsets, shape, to);
    in_bf16::attend_backward(g, in, saved, offsets, shape, to);
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

/// The prefix before the keys and values of each sequence.
HeadsOfRows joined(const HeadsOfRows& text, const at::Tensor& keys_values, const PrefixedKeys& keys) {
    const auto join = [&](const at::Tensor& of_text, std::int64_t which) {
        const at::Tensor prefix =
            keys_values[which].to(of_text.scalar_type()).unflatten(1, of_text.sizes().slice(1));
        return at::cat({prefix, of_text}).index_select(0, keys.source);
    };
    return {text.q, join(text.k, 0), join(text.v, 1)};
}

/// What a node keeps besides tensors.
struct Settings {
    SequenceOffsets offsets;
    std::shared_ptr<const PrefixedKeys> keys;  ///< null: no prefix
    AttentionShape shape;
    bool turns_pairs;
    /// Of the head norms all but weights and biases; none: heads have no norms.
    std::optional<HeadNorms> norms;

    AttentionOffsets attention_offsets() const { return {offsets, keys ? keys->offsets : offsets}; }
};

/// Gradients of the rotated qkv and of the prefix, if any.
struct RotatedGradients {
    at::Tensor qkv, keys_values;
};

RotatedGradients rotated_gradients(const at::Tensor& g, const at::Tensor& turned,
                                   const at::Tensor& keys_values, const Attended& saved,
                                   const Settings& settings) {
    const AttentionShape& shape = settings.shape;
    RotatedGradients out{.qkv = at::empty_like(turned), .keys_values = {}};
    const HeadsOfRows in(turned, shape), to(out.qkv, shape);
    if (!settings.keys) {
        attend_backward(g, in, saved, settings.attention_offsets(), shape, to);
        return out;
    }
    const PrefixedKeys& keys = *settings.keys;
    const HeadsOfRows all = joined(in, keys_values, keys);
    const HeadsOfRows of_all(to.q, at::empty_like(all.k), at::empty_like(all.v));
    attend_backward(g, all, saved, settings.attention_offsets(), shape, of_all);
    to.k.copy_(of_all.k.index_select(0, keys.of_text));
    to.v.copy_(of_all.v.index_select(0, keys.of_text));
    const auto of_prefix = [&](const at::Tensor& gradient) {
        return gradient.index_select(0, keys.of_prefix)
            .view({-1, keys.tokens, shape.kv_size()})
            .sum(0, /*keepdim=*/false, at::kFloat);
    };
    out.keys_values = at::stack({of_prefix(of_all.k), of_prefix(of_all.v)});
    return out;
}

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
        kPrefix,
        kRaw,
        kQueryInverse,
        kQueryMean,
        kKeyInverse,
        kKeyMean,
        kNormTensors
    };

    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv,
                              const std::optional<at::Tensor>& prefix, const std::optional<at::Tensor>& cos,
                              const std::optional<at::Tensor>& sin, at::TensorList norm_tensors,
                              const Settings& settings) {
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
        const at::Tensor keys_values = prefix.value_or(at::Tensor());
        const HeadsOfRows heads(turned, shape);
        const Attended attended = attend(settings.keys ? joined(heads, keys_values, *settings.keys) : heads,
                                         settings.attention_offsets(), shape);
        variable_list saved = {turned,          attended.out, attended.logsumexp, attended.seed,
                               attended.offset, table.cos,    table.sin,          keys_values};
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
        auto [d_qkv, d_prefix] =
            rotated_gradients(grads[0], saved[kTurned], saved[kPrefix], attended, settings);
        const RopeTable table{.cos = saved[kCos], .sin = saved[kSin], .pairs = settings.turns_pairs};
        rotate_heads(d_qkv, table, shape, RopeDirection::kBackward);
        variable_list result = {d_qkv, d_prefix, {}, {}};
        if (settings.norms) {
            const at::TensorList tensors = at::TensorList(saved).slice(kNormTensors);
            // Among the arguments that are tensors, which absent ones are not.
            const std::size_t first = 1 + (settings.keys ? 1 : 0) + (table.cos.defined() ? 2 : 0);
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

PrefixedKeys::PrefixedKeys(const SequenceOffsets& text, std::int64_t prefix, at::Device device)
    : tokens(prefix) {
    std::vector<std::int64_t> from, text_places, prefix_places;
    const auto here = [&] { return static_cast<std::int64_t>(from.size()); };
    offsets.host.push_back(0);
    for (std::size_t s = 0; s + 1 < text.host.size(); ++s) {
        for (std::int64_t v = 0; v < prefix; ++v) {
            prefix_places.push_back(here());
            from.push_back(v);
        }
        for (std::int64_t t = text.host[s]; t < text.host[s + 1]; ++t) {
            text_places.push_back(here());
            from.push_back(prefix + t);
        }
        offsets.host.push_back(here());
    }
    // By one copy, of which each is a part.
    std::vector<std::int64_t> packed;
    for (const auto* list : {&from, &text_places, &prefix_places, &offsets.host})
        packed.insert(packed.end(), list->begin(), list->end());
    const at::Tensor there = at::tensor(packed, at::TensorOptions(at::kLong)).to(device);
    std::int64_t first = 0;
    const auto next = [&](const std::vector<std::int64_t>& list) {
        const auto count = static_cast<std::int64_t>(list.size());
        first += count;
        return there.narrow(0, first - count, count);
    };
    source = next(from);
    of_text = next(text_places);
    of_prefix = next(prefix_places);
    offsets.device = next(offsets.host).to(at::kInt);
}

std::int64_t SequenceOffsets::longest() const {
    std::int64_t most = 0;
    for (std::size_t s = 0; s + 1 < host.size(); ++s) most = std::max(most, host[s + 1] - host[s]);
    return most;
}

at::Tensor rotary_attention(const at::Tensor& qkv, const RopeTable& table, const SequenceOffsets& offsets,
                            const AttentionShape& shape, const HeadNorms* norms,
                            const AttentionPrefix& prefix) {
    const std::vector<at::Tensor> tensors = norms == nullptr ? std::vector<at::Tensor>() : tensors_of(*norms);
    Settings settings{
        .offsets = offsets, .keys = prefix.keys, .shape = shape, .turns_pairs = table.pairs, .norms = {}};
    if (norms != nullptr) settings.norms = without_tensors(*norms);
    return RotaryAttention::apply(qkv, if_defined(prefix.keys_values), if_defined(table.cos),
                                  if_defined(table.sin), at::TensorList(tensors), settings);
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
