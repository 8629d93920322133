#include <ATen/ops/_efficient_attention_backward.h>
#include <ATen/ops/_efficient_attention_forward.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include "../attention_backends.h"
#include "../capped_attention.h"
#include "../if_defined.h"
#include "qlora/ops/device.h"

/// Variable-length attention of LibTorch on a GPU: flash for 16-bit types on sm_80 and newer,
/// memory-efficient for fp32 and older cards.
namespace qlora::ops::on_device {
namespace {

/// LibTorch's names for causal masks, among its custom_mask_type values: aligned to the first token or, as
/// flash's always is, to the last.
constexpr std::int64_t kCausalFromTopLeft = 1, kCausalFromBottomRight = 2;

std::int64_t mask_kind(const AttentionOffsets& offsets) {
    return offsets.prefixed() ? kCausalFromBottomRight : kCausalFromTopLeft;
}
constexpr int kFirstFlashCapability = 80;

bool uses_flash(const at::Tensor& x, const AttentionShape& shape) {
    // What LibTorch's flash kernels take.
    const bool fits = shape.head_dim % 8 == 0 && shape.head_dim <= 256;
    return fits && x.scalar_type() != at::kFloat &&
           device_kernels(x)->compute_capability(x.device().index()) >= kFirstFlashCapability;
}

std::optional<std::int64_t> tokens_before(const AttentionShape& shape) {
    if (shape.window == 0) return std::nullopt;
    return shape.window - 1;
}

std::optional<std::int64_t> window_of(const AttentionShape& shape) {
    if (shape.window == 0) return std::nullopt;
    return shape.window;
}

/// Each key and value head repeated for its query heads, [1, T, heads, head_dim]: this kernel knows no
/// groups.
at::Tensor repeated(const at::Tensor& x, const AttentionShape& shape) {
    return x.repeat_interleave(shape.heads / shape.kv_heads, 1).unsqueeze(0);
}

/// The sum over the repetitions, [T, kv_heads, head_dim].
at::Tensor summed(const at::Tensor& x, const AttentionShape& shape) {
    return x.squeeze(0).unflatten(1, {shape.kv_heads, shape.heads / shape.kv_heads}).sum(2);
}

}  // namespace

Attended attend(const HeadsOfRows& in, const AttentionOffsets& offsets, const AttentionShape& shape) {
    if (shape.softcap != 0.0) return {.out = capped_attention(in, offsets, shape)};
    const auto& [queries, keys] = offsets;
    if (uses_flash(in.q, shape)) {
        auto [out, logsumexp, seed, offset, debug] = at::_flash_attention_forward(
            in.q, in.k, in.v, queries.device, keys.device, queries.longest(), keys.longest(), 0.0, true,
            false, shape.scale, tokens_before(shape), std::nullopt);
        return {.out = out.flatten(1), .logsumexp = logsumexp, .seed = seed, .offset = offset};
    }
    auto [out, logsumexp, seed, offset, max_q, max_k] = at::_efficient_attention_forward(
        in.q.unsqueeze(0), repeated(in.k, shape), repeated(in.v, shape), std::nullopt, queries.device,
        keys.device, queries.longest(), keys.longest(), 0.0, mask_kind(offsets), true, shape.scale,
        std::nullopt, window_of(shape));
    return {.out = out.squeeze(0).flatten(1), .logsumexp = logsumexp, .seed = seed, .offset = offset};
}

void attend_backward(const at::Tensor& g, const HeadsOfRows& in, const Attended& saved,
                     const AttentionOffsets& offsets, const AttentionShape& shape, const HeadsOfRows& to) {
    if (shape.softcap != 0.0) return capped_attention_backward(g, in, offsets, shape, to);
    const auto& [queries, keys] = offsets;
    const at::Tensor d_out = g.contiguous().unflatten(1, {shape.heads, shape.head_dim});
    const at::Tensor out = saved.out.unflatten(1, {shape.heads, shape.head_dim});
    if (uses_flash(in.q, shape)) {
        const auto [dq, dk, dv] = at::_flash_attention_backward(
            d_out, in.q, in.k, in.v, out, saved.logsumexp, queries.device, keys.device, queries.longest(),
            keys.longest(), 0.0, true, saved.seed, saved.offset, shape.scale, tokens_before(shape),
            std::nullopt);
        to.q.copy_(dq);
        to.k.copy_(dk);
        to.v.copy_(dv);
        return;
    }
    const auto [dq, dk, dv, d_bias] = at::_efficient_attention_backward(
        d_out.unsqueeze(0), in.q.unsqueeze(0), repeated(in.k, shape), repeated(in.v, shape), std::nullopt,
        out.unsqueeze(0), queries.device, keys.device, queries.longest(), keys.longest(), saved.logsumexp,
        0.0, saved.seed, saved.offset, mask_kind(offsets), false, shape.scale, std::nullopt,
        window_of(shape));
    to.q.copy_(dq.squeeze(0));
    to.k.copy_(summed(dk, shape));
    to.v.copy_(summed(dv, shape));
}

at::Tensor cached_attention(const at::Tensor& q, const KeysValues& cached, const AttentionShape& shape) {
    const auto& [k, v] = cached;
    if (shape.softcap != 0.0) return capped_attention(q, k, v, shape);
    const std::int64_t n = q.size(0), m = k.size(0);
    const at::Tensor mask = window_mask(n, m, shape.window, q.options());
    return rows_of_heads(at::scaled_dot_product_attention(heads_first(q), heads_first(k), heads_first(v),
                                                          if_defined(mask), 0.0, n == m && !mask.defined(),
                                                          shape.scale, true));
}

}  // namespace qlora::ops::on_device
