#include "qlora/ops/attention.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "ops/attention_case.h"

namespace qlora::ops {
namespace {

using namespace test;
using Case = AttentionCase;

class Attention : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    Shapes, Attention,
    testing::Values(Case{"one_token", 2, 2, 8, {0, 1}, 0}, Case{"one_head", 1, 1, 4, {0, 9}, 0},
                    Case{"ragged", 4, 4, 16, {0, 1, 24, 25, 65, 67}, 0},
                    Case{"shared_keys", 6, 2, 8, {0, 13, 14, 40}, 0},
                    Case{"one_key_head", 4, 1, 24, {0, 30, 31}, 0}, Case{"window_1", 4, 2, 8, {0, 12, 13}, 1},
                    Case{"window_5", 4, 2, 8, {0, 4, 9, 31, 32}, 5},
                    Case{"window_of_the_length", 4, 2, 8, {0, 12, 30}, 12},
                    Case{"window_beyond_the_length", 4, 2, 8, {0, 12}, 100},
                    Case{"long", 2, 1, 16, {0, 300, 301}, 0}, Case{"long_window", 2, 1, 16, {0, 300}, 64},
                    Case{"around_the_blocks", 3, 1, 8, {0, 63, 127, 192, 320, 449}, 0},
                    Case{"window_across_blocks", 3, 1, 8, {0, 63, 127, 192, 320, 449}, 65},
                    Case{"own_scale", 4, 2, 8, {0, 12, 31}, 0, 0.11},
                    Case{"own_scale_window", 4, 2, 8, {0, 12, 70}, 9, 0.7},
                    Case{"per_head", 3, 3, 8, {0, 12, 61}, 0, 0.0, true},
                    Case{"per_head_window", 3, 3, 8, {0, 12, 70}, 9, 0.2, true},
                    Case{"softcap", 4, 2, 8, {0, 1, 12, 61}, 0, 0.5, false, 2.0},
                    Case{"softcap_window", 4, 2, 8, {0, 12, 70}, 9, 0.0, false, 0.7},
                    Case{"softcap_per_head", 3, 3, 8, {0, 12, 61}, 20, 0.4, true, 1.5}),
    [](const auto& chosen) { return chosen.param.name; });

TEST_P(Attention, equals_the_definition_in_fp64) {
    const Case& c = GetParam();
    const std::int64_t tokens = c.offsets.back();
    expect_equal_with_gradients(
        {gaussian({tokens, c.heads, c.head_dim}, 1), gaussian({tokens, c.kv_heads, c.head_dim}, 2),
         gaussian({tokens, c.kv_heads, c.head_dim}, 3)},
        [&](const auto& in) { return causal_attention(in[0], in[1], in[2], c.offsets, c); },
        [&](const auto& in) { return exact_attention(in[0], in[1], in[2], c); }, kAttentionBound);
}

/// As transformers' sdpa attention calls it: one sequence, keys and values repeated for every query head.
at::Tensor sdpa(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
    const auto heads_first = [&](const at::Tensor& x) {
        return x.transpose(0, 1).repeat_interleave(q.size(1) / x.size(1), 0).unsqueeze(0);
    };
    const at::Tensor y = at::scaled_dot_product_attention(heads_first(q), heads_first(k), heads_first(v), {},
                                                          0.0, true, scale);
    return y.squeeze(0).transpose(0, 1).reshape({q.size(0), -1});
}

TEST_P(Attention, bf16_rounds_as_transformers_sdpa_does) {
    const Case& c = GetParam();
    if (c.softcap != 0.0) return;  // transformers runs eager attention: CappedAttention below
    const std::int64_t tokens = c.offsets.back();
    const at::Tensor q = gaussian({tokens, c.heads, c.head_dim}, 1).to(at::kBFloat16);
    const at::Tensor k = gaussian({tokens, c.kv_heads, c.head_dim}, 2).to(at::kBFloat16);
    const at::Tensor v = gaussian({tokens, c.kv_heads, c.head_dim}, 3).to(at::kBFloat16);
    const at::Tensor y = causal_attention(q, k, v, c.offsets, c);
    ASSERT_EQ(y.scalar_type(), at::kBFloat16);
    // Probabilities are rounded to bf16 before they meet v, and the result once more.
    const at::Tensor exact = exact_attention(q.to(at::kDouble), k.to(at::kDouble), v.to(at::kDouble), c);
    const at::Tensor allowed = (exact.abs() + v.to(at::kDouble).abs().max()) * kBf16Rounding;
    EXPECT_TRUE((y.to(at::kDouble) - exact).abs().le(allowed).all().item<bool>());
    for (std::size_t s = 0; s + 1 < c.offsets.size(); ++s) {
        const std::int64_t begin = c.offsets[s], n = c.offsets[s + 1] - begin;
        if (c.window > 0 && c.window < n) continue;
        EXPECT_TRUE(y.narrow(0, begin, n)
                        .equal(sdpa(q.narrow(0, begin, n), k.narrow(0, begin, n), v.narrow(0, begin, n),
                                    c.shape().scale)))
            << "sequence " << s;
    }
}

TEST_P(Attention, a_sequence_does_not_see_its_neighbours) {
    const Case& c = GetParam();
    const std::int64_t tokens = c.offsets.back();
    const at::Tensor q = gaussian({tokens, c.heads, c.head_dim}, 1),
                     k = gaussian({tokens, c.kv_heads, c.head_dim}, 2);
    const at::Tensor v = gaussian({tokens, c.kv_heads, c.head_dim}, 3);
    const at::Tensor packed = causal_attention(q, k, v, c.offsets, c);
    for (std::size_t s = 0; s + 1 < c.offsets.size(); ++s) {
        const std::int64_t begin = c.offsets[s], n = c.offsets[s + 1] - begin;
        const at::Tensor alone =
            causal_attention(q.narrow(0, begin, n), k.narrow(0, begin, n), v.narrow(0, begin, n), {0, n}, c);
        EXPECT_TRUE(alone.equal(packed.narrow(0, begin, n))) << "sequence " << s;
    }
}

TEST_P(Attention, the_cached_form_gives_the_last_rows) {
    const Case& c = GetParam();
    const std::int64_t m = c.offsets[1];
    const at::Tensor q = gaussian({m, c.heads, c.head_dim}, 1), k = gaussian({m, c.kv_heads, c.head_dim}, 2);
    const at::Tensor v = gaussian({m, c.kv_heads, c.head_dim}, 3);
    const at::Tensor whole = causal_attention(q, k, v, {0, m}, c);
    for (const std::int64_t n : {std::int64_t{1}, std::min<std::int64_t>(2, m), (m + 1) / 2, m}) {
        const at::Tensor last = cached_attention(q.narrow(0, m - n, n), {{0, n}}, {{k, v}}, c.shape());
        // Blocks of keys are summed in another order, and masked instead of skipped: a few fp32 ulps.
        EXPECT_LE(difference(last, whole.narrow(0, m - n, n)), kAttentionBound) << n << " of " << m;
    }
}

TEST_P(Attention, the_cached_form_of_several_sequences_gives_what_each_gives_alone) {
    const Case& c = GetParam();
    std::vector<KeysValues> cached;
    std::vector<std::int64_t> offsets{0};
    for (const std::int64_t m : {1, 50, 7, 131}) {
        cached.push_back({gaussian({m, c.kv_heads, c.head_dim}, offsets.size()),
                          gaussian({m, c.kv_heads, c.head_dim}, 10 + offsets.size())});
        // One new row, as in generation, and some.
        offsets.push_back(offsets.back() + (m == 7 ? 5 : 1));
    }
    const at::Tensor q = gaussian({offsets.back(), c.heads, c.head_dim}, 3);
    const at::Tensor all = cached_attention(q, offsets, cached, c.shape());
    for (std::size_t s = 0; s < cached.size(); ++s) {
        const std::int64_t begin = offsets[s], n = offsets[s + 1] - begin;
        EXPECT_TRUE(cached_attention(q.narrow(0, begin, n), {{0, n}}, {cached[s]}, c.shape())
                        .equal(all.narrow(0, begin, n)))
            << "sequence " << s;
    }
    EXPECT_THROW(cached_attention(q, {{0, 1}}, cached, c.shape()), c10::Error);
}

TEST_P(Attention, the_thread_count_moves_no_result_and_gradients_by_the_order_of_a_sum) {
    const Case& c = GetParam();
    const std::int64_t tokens = c.offsets.back();
    const int before = at::get_num_threads();
    std::vector<at::Tensor> results[3], outputs;
    for (int run = 0; run < 3; ++run) {
        at::set_num_threads(run == 0 ? 1 : 2);
        std::vector<at::Tensor> in = {gaussian({tokens, c.heads, c.head_dim}, 1),
                                      gaussian({tokens, c.kv_heads, c.head_dim}, 2),
                                      gaussian({tokens, c.kv_heads, c.head_dim}, 3)};
        for (at::Tensor& x : in) x.requires_grad_();
        outputs.push_back(causal_attention(in[0], in[1], in[2], c.offsets, c));
        torch::autograd::backward({outputs.back()}, {gaussian(outputs.back().sizes(), 4)});
        for (const at::Tensor& x : in) results[run].push_back(x.grad());
    }
    at::set_num_threads(before);
    EXPECT_TRUE(outputs[0].equal(outputs[1]));
    for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_TRUE(results[1][i].equal(results[2][i])) << "the same threads give the same bits, input " << i;
        EXPECT_LE(difference(results[1][i], results[0][i]), 1e-6) << "input " << i;
    }
}

TEST(RotaryAttention, without_a_table_nothing_is_turned) {
    constexpr std::int64_t kRows = 9, kHalf = 4;
    const AttentionShape shape = Case{"", 4, 2, 2 * kHalf, {}, 0}.shape();
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        const RopeTable still{.cos = at::ones({kRows, kHalf}, type), .sin = at::zeros({kRows, kHalf}, type)};
        const at::Tensor qkv = gaussian({kRows, shape.q_size() + 2 * shape.kv_size()}, 1).to(type);
        std::vector<at::Tensor> results;
        for (const RopeTable& table : {still, RopeTable{}}) {
            const at::Tensor input = qkv.clone().requires_grad_();
            const at::Tensor out = rotary_attention(input.clone(), table, {{0, 4, kRows}}, shape, nullptr);
            out.backward(gaussian(out.sizes(), 2).to(type));
            results.insert(results.end(),
                           {out.detach(), input.grad(), rotated(qkv.clone(), table, shape, nullptr)});
        }
        for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(results[i].equal(results[i + 3])) << i;
    }
}

/// The first dimensions of the heads [T, heads, head_dim] turned, as they are defined.
at::Tensor turn(const at::Tensor& x, const RopeTable& table) {
    const at::Tensor cos = table.cos.to(x.scalar_type()).unsqueeze(1),
                     sin = table.sin.to(x.scalar_type()).unsqueeze(1);
    const std::int64_t dims = table.dims();
    const at::Tensor first = table.pairs ? x.slice(2, 0, dims, 2) : x.narrow(2, 0, dims / 2);
    const at::Tensor second = table.pairs ? x.slice(2, 1, dims, 2) : x.narrow(2, dims / 2, dims / 2);
    const at::Tensor a = first * cos - second * sin, b = second * cos + first * sin;
    const at::Tensor both = table.pairs ? at::stack({a, b}, 3).flatten(2) : at::cat({a, b}, 2);
    return at::cat({both, x.narrow(2, dims, x.size(2) - dims)}, 2);
}

RopeTable table_of(const std::vector<std::int64_t>& offsets, std::int64_t dims, bool pairs) {
    std::vector<at::Tensor> positions;
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
        positions.push_back(at::arange(offsets[s + 1] - offsets[s], at::kLong));
    const at::Tensor exponent = at::arange(0, dims, 2, at::kLong) / static_cast<double>(dims);
    const at::Tensor inverse = 1.0 / at::pow(at::Scalar(100.0), exponent);
    RopeTable table = rope_table(at::cat(positions), inverse.to(at::kFloat), at::kFloat);
    table.pairs = pairs;
    return table;
}

/// q, k and v of rows in either order.
std::vector<at::Tensor> heads_of(const at::Tensor& qkv, const Case& c) {
    const std::int64_t tokens = qkv.size(0), dim = c.head_dim;
    if (c.per_head) return qkv.reshape({tokens, c.heads, 3 * dim}).split(dim, 2);
    const std::vector<at::Tensor> parts =
        qkv.split_with_sizes({c.heads * dim, c.kv_heads * dim, c.kv_heads * dim}, 1);
    return {parts[0].reshape({tokens, c.heads, dim}), parts[1].reshape({tokens, c.kv_heads, dim}),
            parts[2].reshape({tokens, c.kv_heads, dim})};
}

TEST(RotaryAttention, every_way_to_turn_equals_autograd_in_fp64) {
    const std::vector<std::int64_t> offsets = {0, 8, 21};
    for (const Case& c : {Case{"", 4, 2, 8, offsets, 0}, Case{"", 3, 3, 8, offsets, 5, 0.3, true}}) {
        for (const std::int64_t dims : {c.head_dim, c.head_dim / 2}) {
            for (const bool pairs : {false, true}) {
                const RopeTable table = table_of(offsets, dims, pairs);
                // The node consumes its input: it gets a copy.
                expect_equal_with_gradients(
                    {gaussian({offsets.back(), (c.heads + 2 * c.kv_heads) * c.head_dim}, 1)},
                    [&](const auto& in) {
                        return rotary_attention(in[0].clone(), table, offsets, c.shape(), nullptr);
                    },
                    [&](const auto& in) {
                        const std::vector<at::Tensor> heads = heads_of(in[0], c);
                        return exact_attention(turn(heads[0], table), turn(heads[1], table), heads[2], c);
                    },
                    kAttentionBound);
            }
        }
    }
}

/// Of every kind: the formula, rounded nowhere.
at::Tensor exact_norm(const at::Tensor& x, const Norm& norm) {
    const at::Tensor centred = norm.kind == kernels::NormKind::kLayer ? x - x.mean(-1, true) : x;
    const at::Tensor y = norm.weight * centred / at::sqrt(centred.pow(2).mean(-1, true) + norm.eps);
    return norm.bias.defined() ? y + norm.bias : y;
}

struct NormCase {
    std::string name;
    kernels::NormKind kind = kernels::NormKind::kRms;
    bool whole_rows = false, own = false, bias = false;
};

TEST(RotaryAttention, head_norms_and_rotation_equal_autograd_in_fp64) {
    using kernels::NormKind;
    for (const bool turns : {true, false}) {
        for (const NormCase& n : {NormCase{"heads"}, NormCase{"whole_rows", NormKind::kRmsLate, true},
                                  NormCase{"layer", NormKind::kLayer, false, false, true},
                                  NormCase{"own_layer", NormKind::kLayer, false, true},
                                  NormCase{"own_layer_bias", NormKind::kLayer, false, true, true}}) {
            // What is added to all keys that do not turn moves no probability: its gradient would be noise.
            if (n.bias && !turns) continue;
            SCOPED_TRACE(n.name + (turns ? " turned" : ""));
            const Case c{"", 4, 2, 8, {0, 8, 21}, 0};
            const RopeTable table = turns ? table_of(c.offsets, c.head_dim, false) : RopeTable{};
            const auto sizes = [&](std::int64_t heads) {
                if (n.own) return std::vector<std::int64_t>{heads, c.head_dim};
                return std::vector<std::int64_t>{n.whole_rows ? heads * c.head_dim : c.head_dim};
            };
            std::vector<at::Tensor> inputs = {gaussian({c.offsets.back(), 8 * c.head_dim}, 1),
                                              gaussian(sizes(c.heads), 2), gaussian(sizes(c.kv_heads), 3)};
            if (n.bias) {
                inputs.push_back(gaussian(sizes(c.heads), 4));
                inputs.push_back(gaussian(sizes(c.kv_heads), 5));
            }
            const auto norm = [&](const std::vector<at::Tensor>& in, std::size_t which) {
                return Norm{.kind = n.kind,
                            .weight = in[1 + which],
                            .bias = n.bias ? in[3 + which] : at::Tensor(),
                            .eps = 1e-6};
            };
            expect_equal_with_gradients(
                inputs,
                [&](const auto& in) {
                    const HeadNorms norms{.q = norm(in, 0), .k = norm(in, 1), .whole_rows = n.whole_rows};
                    return rotary_attention(in[0].clone(), table, c.offsets, c.shape(), &norms);
                },
                [&](const auto& in) {
                    std::vector<at::Tensor> heads = heads_of(in[0], c);
                    for (std::size_t which : {0, 1}) {
                        at::Tensor& x = heads[which];
                        const at::IntArrayRef shape = x.sizes();
                        x = n.whole_rows ? exact_norm(x.flatten(1), norm(in, which)).view(shape)
                                         : exact_norm(x, norm(in, which));
                        if (turns) x = turn(x, table);
                    }
                    return exact_attention(heads[0], heads[1], heads[2], c);
                },
                kAttentionBound);
        }
    }
}

}  // namespace
}  // namespace qlora::ops
