#include <ATen/ops/_efficient_attention_backward.h>
#include <ATen/ops/_efficient_attention_forward.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include "../attention_backends.h"
#include "../capped_attention.h"
#include "../if_defined.h"
#include "qlora/ops/device.h"

/// Variable-length attention of LibTorch on a GPU: flash for 16-bit types on sm_80 and newer,
/// memory-efficient for fp32 and older cards.
namespace qlora::ops::on_device {
namespace {

/// LibTorch's name for a causal mask aligned to the first token, among its custom_mask_type values.
constexpr std::int64_t kCausalFromTopLeft = 1;
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

Attended attend(const at::Tensor& qkv, const SequenceOffsets& offsets, const AttentionShape& shape) {
    if (shape.softcap != 0.0) return {.out = capped_attention(qkv, offsets, shape)};
    const HeadsOfRows in(qkv, shape);
    const std::int64_t longest = offsets.longest();
    if (uses_flash(qkv, shape)) {
        auto [out, logsumexp, seed, offset, debug] =
            at::_flash_attention_forward(in.q, in.k, in.v, offsets.device, offsets.device, longest, longest,
                                         0.0, true, false, shape.scale, tokens_before(shape), std::nullopt);
        return {.out = out.flatten(1), .logsumexp = logsumexp, .seed = seed, .offset = offset};
    }
    auto [out, logsumexp, seed, offset, max_q, max_k] = at::_efficient_attention_forward(
        in.q.unsqueeze(0), repeated(in.k, shape), repeated(in.v, shape), std::nullopt, offsets.device,
        offsets.device, longest, longest, 0.0, kCausalFromTopLeft, true, shape.scale, std::nullopt,
        window_of(shape));
    return {.out = out.squeeze(0).flatten(1), .logsumexp = logsumexp, .seed = seed, .offset = offset};
}

at::Tensor attend_backward(const at::Tensor& g, const at::Tensor& qkv, const Attended& saved,
                           const SequenceOffsets& offsets, const AttentionShape& shape) {
    if (shape.softcap != 0.0) return capped_attention_backward(g, qkv, offsets, shape);
    const HeadsOfRows in(qkv, shape);
    const std::int64_t longest = offsets.longest();
    const at::Tensor d_out = g.contiguous().unflatten(1, {shape.heads, shape.head_dim});
    const at::Tensor out = saved.out.unflatten(1, {shape.heads, shape.head_dim});
    at::Tensor d_qkv = at::empty_like(qkv);
    const HeadsOfRows to(d_qkv, shape);
    if (uses_flash(qkv, shape)) {
        const auto [dq, dk, dv] = at::_flash_attention_backward(
            d_out, in.q, in.k, in.v, out, saved.logsumexp, offsets.device, offsets.device, longest, longest,
            0.0, true, saved.seed, saved.offset, shape.scale, tokens_before(shape), std::nullopt);
        to.q.copy_(dq);
        to.k.copy_(dk);
        to.v.copy_(dv);
        return d_qkv;
    }
    const auto [dq, dk, dv, d_bias] = at::_efficient_attention_backward(
        d_out.unsqueeze(0), in.q.unsqueeze(0), repeated(in.k, shape), repeated(in.v, shape), std::nullopt,
        out.unsqueeze(0), offsets.device, offsets.device, longest, longest, saved.logsumexp, 0.0, saved.seed,
        saved.offset, kCausalFromTopLeft, false, shape.scale, std::nullopt, window_of(shape));
    to.q.copy_(dq.squeeze(0));
    to.k.copy_(summed(dk, shape));
    to.v.copy_(summed(dv, shape));
    return d_qkv;
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
