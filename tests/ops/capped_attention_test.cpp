#include "ops/capped_attention.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros_like.h>

#include "ops/attention_case.h"

namespace qlora::ops {
namespace {

using namespace test;
using Case = AttentionCase;

/// As transformers' eager attention of gemma2 computes, in the dtype of q; of one sequence.
at::Tensor eager(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Case& c) {
    const auto heads_first = [&](const at::Tensor& x) {
        return x.transpose(0, 1).repeat_interleave(c.heads / x.size(1), 0);
    };
    const at::Tensor place = at::arange(q.size(0), at::kLong);
    at::Tensor hidden = place.unsqueeze(0).gt(place.unsqueeze(1));
    if (c.window > 0) hidden = hidden.logical_or(place.unsqueeze(0).le(place.unsqueeze(1) - c.window));
    at::Tensor scores = at::matmul(heads_first(q), heads_first(k).transpose(1, 2)) * c.shape().scale;
    scores = at::tanh(scores / c.softcap) * c.softcap;
    const at::Tensor p = at::softmax(scores.masked_fill(hidden, -INFINITY), -1, at::kFloat);
    return at::matmul(p.to(q.scalar_type()), heads_first(v)).transpose(0, 1).flatten(1);
}

/// 32 heads of 600 tokens are several blocks of query rows.
TEST(CappedAttention, bf16_rounds_as_transformers_eager_attention_does) {
    for (const Case& c : {Case{"", 32, 4, 8, {0, 600}, 0, 0.5, false, 3.0},
                          Case{"", 32, 8, 8, {0, 600}, 150, 0.5, false, 3.0}}) {
        std::vector<at::Tensor> mine, theirs;
        for (std::uint64_t i : {0, 1, 2}) {
            const at::Tensor x =
                gaussian({600, i == 0 ? c.heads : c.kv_heads, c.head_dim}, i + 1).to(at::kBFloat16);
            mine.push_back(x.clone().requires_grad_());
            theirs.push_back(x.clone().requires_grad_());
        }
        const at::Tensor y = causal_attention(mine[0], mine[1], mine[2], c.offsets, c);
        const at::Tensor z = eager(theirs[0], theirs[1], theirs[2], c);
        // Sums may have another order: a few results round to the neighbour.
        EXPECT_LE(difference(y.detach(), z.detach()), 2 * kBf16Rounding);
        EXPECT_LE(y.ne(z).to(at::kDouble).mean().item<double>(), 0.02);
        const at::Tensor g = gaussian(y.sizes(), 9).to(at::kBFloat16);
        y.backward(g);
        z.backward(g);
        // Ours sums the gradients of shared keys and values in fp32, where theirs is rounded on the way.
        for (std::size_t i = 0; i < 3; ++i)
            EXPECT_LE(difference(mine[i].grad(), theirs[i].grad()), 3 * kBf16Rounding) << i;
    }
}

TEST(CappedAttention, by_libtorchs_operations_equals_the_blocks_of_fp32) {
    const Case c{"", 32, 4, 8, {0, 1, 500, 1100}, 200, 0.5, false, 3.0};
    const at::Tensor qkv = gaussian({1100, 40 * 8}, 1), g = gaussian({1100, 32 * 8}, 2);
    const at::Tensor input = qkv.clone().requires_grad_();
    const at::Tensor out = rotary_attention(input.clone(), {}, c.offsets, c.shape(), nullptr);
    out.backward(g);
    const AttentionOffsets offsets{c.offsets, c.offsets};
    const HeadsOfRows in(qkv, c.shape());
    EXPECT_LE(difference(capped_attention(in, offsets, c.shape()), out.detach()), kAttentionBound);
    const at::Tensor gradient = at::zeros_like(qkv);
    capped_attention_backward(g, in, offsets, c.shape(), HeadsOfRows(gradient, c.shape()));
    EXPECT_LE(difference(gradient, input.grad()), kAttentionBound);
}

/// KvCache drops them, and must not change what is generated.
TEST(CachedAttention, keys_before_the_window_may_be_missing_in_whole_blocks) {
    constexpr std::int64_t kKeys = 1700, kDropped = 1536;
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        for (const double softcap : {0.0, 2.0}) {
            const Case c{"", 4, 2, 16, {}, 100, 0.0, false, softcap};
            const at::Tensor k = gaussian({kKeys, 2, 16}, 1).to(type),
                             v = gaussian({kKeys, 2, 16}, 2).to(type);
            for (const std::int64_t n : {1, 2, 64}) {
                const at::Tensor q = gaussian({n, 4, 16}, 3).to(type);
                const KeysValues kept{k.slice(0, kDropped), v.slice(0, kDropped)};
                EXPECT_TRUE(cached_attention(q, {{0, n}}, {{k, v}}, c.shape())
                                .equal(cached_attention(q, {{0, n}}, {kept}, c.shape())))
                    << n << " queries, softcap " << softcap;
            }
        }
    }
}

/// Blocks of 150 rows and one of the rest, of 73 rows or one: what the window hides is not computed, and must
/// not show.
TEST(WindowedAttention, blocks_of_16_bits_are_near_fp32) {
    const Case c{"", 4, 2, 16, {0, 37, 560, 1161}, 150};
    std::vector<at::Tensor> results[2];
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        std::vector<at::Tensor>& out = results[type == at::kFloat ? 0 : 1];
        std::vector<at::Tensor> in;
        for (std::uint64_t i : {0, 1, 2})
            in.push_back(gaussian({c.offsets.back(), i == 0 ? c.heads : c.kv_heads, c.head_dim}, i + 1)
                             .to(at::kBFloat16)
                             .to(type)
                             .requires_grad_());
        const at::Tensor y = causal_attention(in[0], in[1], in[2], c.offsets, c);
        y.backward(gaussian(y.sizes(), 9).to(at::kBFloat16).to(type));
        out.push_back(y.detach());
        for (const at::Tensor& x : in) out.push_back(x.grad());
        const at::Tensor k = in[1].detach().narrow(0, 37, 523), v = in[2].detach().narrow(0, 37, 523);
        out.push_back(cached_attention(in[0].detach().narrow(0, 110, 450), {{0, 450}}, {{k, v}}, c.shape()));
    }
    // Probabilities, gradients of scores and results are rounded to 8 bits each.
    for (std::size_t i = 0; i < results[0].size(); ++i)
        EXPECT_LE(difference(results[1][i].to(at::kFloat), results[0][i]), 3 * kBf16Rounding) << i;
    // Both see the same keys.
    EXPECT_LE(difference(results[1].back(), results[1].front().narrow(0, 110, 450)), kBf16Rounding);
}

}  // namespace
}  // namespace qlora::ops
