#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>

#include "ops/attention_case.h"

namespace qlora::ops {
namespace {

using namespace test;

struct PrefixCase {
    AttentionCase of_text;
    std::int64_t tokens;
};

std::ostream& operator<<(std::ostream& out, const PrefixCase& value) {
    return out << value.of_text.name;
}

AttentionPrefix prefix_of(const at::Tensor& keys_values, const std::vector<std::int64_t>& offsets) {
    return {.keys_values = keys_values,
            .keys = std::make_shared<const PrefixedKeys>(SequenceOffsets(offsets), keys_values.size(1),
                                                         at::kCPU)};
}

/// Rows of the text and a prefix [2, V, kv_size] -> the result.
at::Tensor prefixed_attention(const std::vector<at::Tensor>& in, const AttentionCase& c) {
    return rotary_attention(rows_of(in[0], in[1], in[2], c), {}, c.offsets, c.shape(), nullptr,
                            prefix_of(in[3], c.offsets));
}

/// By the definition: each sequence alone with queries before it whose results are left out.
at::Tensor exact_prefixed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const at::Tensor& keys_values, const AttentionCase& c) {
    std::vector<at::Tensor> out;
    const std::int64_t tokens = keys_values.size(1);
    for (std::size_t s = 0; s + 1 < c.offsets.size(); ++s) {
        const std::int64_t begin = c.offsets[s], n = c.offsets[s + 1] - begin;
        const auto joined = [&](const at::Tensor& x, const at::Tensor& before) {
            return at::cat({before.reshape({tokens, x.size(1), x.size(2)}), x.narrow(0, begin, n)});
        };
        AttentionCase alone = c;
        alone.offsets = {0, tokens + n};
        const at::Tensor all =
            exact_attention(joined(q, at::zeros({tokens, c.heads, c.head_dim}, q.options())),
                            joined(k, keys_values[0]), joined(v, keys_values[1]), alone);
        out.push_back(all.narrow(0, tokens, n));
    }
    return at::cat(out);
}

std::vector<at::Tensor> inputs_of(const PrefixCase& value) {
    const AttentionCase& c = value.of_text;
    const std::int64_t tokens = c.offsets.back();
    return {gaussian({tokens, c.heads, c.head_dim}, 1), gaussian({tokens, c.kv_heads, c.head_dim}, 2),
            gaussian({tokens, c.kv_heads, c.head_dim}, 3),
            gaussian({2, value.tokens, c.kv_heads * c.head_dim}, 4)};
}

class PrefixedAttention : public testing::TestWithParam<PrefixCase> {};
INSTANTIATE_TEST_SUITE_P(
    Shapes, PrefixedAttention,
    testing::Values(PrefixCase{{"one_token", 2, 2, 8, {0, 1}, 0}, 3},
                    PrefixCase{{"ragged", 4, 2, 8, {0, 1, 24, 25, 65}, 0}, 5},
                    PrefixCase{{"one_before_all", 6, 2, 8, {0, 13, 14, 40}, 0}, 1},
                    PrefixCase{{"around_the_blocks", 3, 1, 8, {0, 47, 96, 145}, 0}, 49},
                    PrefixCase{{"cut_heads", 2, 1, 8, {0, 1100}, 0}, 7},
                    PrefixCase{{"window", 4, 2, 8, {0, 4, 9, 61}, 6}, 4},
                    PrefixCase{{"window_that_hides_some", 4, 2, 8, {0, 30, 70}, 5}, 60},
                    PrefixCase{{"window_of_16_bit_blocks", 2, 1, 16, {0, 37, 560}, 100}, 33},
                    PrefixCase{{"softcap", 4, 2, 8, {0, 1, 12, 61}, 0, 0.5, false, 2.0}, 9},
                    PrefixCase{{"softcap_window", 4, 2, 8, {0, 12, 70}, 9, 0.0, false, 0.7}, 6},
                    PrefixCase{{"per_head", 3, 3, 8, {0, 12, 61}, 20, 0.4, true}, 11}),
    [](const auto& chosen) { return chosen.param.of_text.name; });

TEST_P(PrefixedAttention, equals_the_definition_in_fp64) {
    const AttentionCase& c = GetParam().of_text;
    expect_equal_with_gradients(
        inputs_of(GetParam()), [&](const auto& in) { return prefixed_attention(in, c); },
        [&](const auto& in) { return exact_prefixed_attention(in[0], in[1], in[2], in[3], c); },
        kAttentionBound);
}

TEST_P(PrefixedAttention, in_16_bits_is_near_fp32) {
    const AttentionCase& c = GetParam().of_text;
    std::vector<at::Tensor> results[2];
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        std::vector<at::Tensor> in;
        for (const at::Tensor& input : inputs_of(GetParam())) in.push_back(input.to(at::kBFloat16).to(type));
        in[3] = in[3].to(at::kFloat);  // the prefix is a parameter
        for (at::Tensor& input : in) input.requires_grad_();
        const at::Tensor y = prefixed_attention(in, c);
        ASSERT_EQ(y.scalar_type(), type);
        y.backward(gaussian(y.sizes(), 9).to(at::kBFloat16).to(type));
        std::vector<at::Tensor>& out = results[type == at::kFloat ? 0 : 1];
        out.push_back(y.detach());
        for (const at::Tensor& x : in) out.push_back(x.grad());
    }
    EXPECT_EQ(results[1].back().scalar_type(), at::kFloat);
    // Probabilities, gradients of scores and results are rounded to 8 bits each; with a softcap, scores too.
    const double bound = (c.softcap != 0.0 ? 6 : 3) * kBf16Rounding;
    for (std::size_t i = 0; i < results[0].size(); ++i)
        EXPECT_LE(difference(results[1][i].to(at::kFloat), results[0][i]), bound) << i;
}

TEST_P(PrefixedAttention, a_sequence_does_not_see_its_neighbours) {
    const AttentionCase& c = GetParam().of_text;
    const std::vector<at::Tensor> in = inputs_of(GetParam());
    const at::Tensor packed = prefixed_attention(in, c);
    for (std::size_t s = 0; s + 1 < c.offsets.size(); ++s) {
        const std::int64_t begin = c.offsets[s], n = c.offsets[s + 1] - begin;
        AttentionCase alone = c;
        alone.offsets = {0, n};
        const auto own = [&](std::size_t i) { return in[i].narrow(0, begin, n); };
        EXPECT_TRUE(
            prefixed_attention({own(0), own(1), own(2), in[3]}, alone).equal(packed.narrow(0, begin, n)))
            << "sequence " << s;
    }
}

/// A prefix that is keys and values of a text is that text, and what a cache holds.
TEST_P(PrefixedAttention, of_a_text_is_the_text_before_it) {
    const AttentionCase& c = GetParam().of_text;
    const std::int64_t tokens = GetParam().tokens, n = c.offsets[1];
    const std::vector<at::Tensor> in = inputs_of(GetParam());
    const auto of_prefix = [&](std::int64_t which) {
        return in[3][which].reshape({tokens, c.kv_heads, c.head_dim});
    };
    const at::Tensor q = in[0].narrow(0, 0, n);
    const at::Tensor k = at::cat({of_prefix(0), in[1].narrow(0, 0, n)}),
                     v = at::cat({of_prefix(1), in[2].narrow(0, 0, n)});
    const at::Tensor ours = prefixed_attention(in, c).narrow(0, 0, n);
    EXPECT_LE(difference(cached_attention(q, {{0, n}}, {{k, v}}, c.shape()), ours), kAttentionBound);
    const at::Tensor queries = at::cat({gaussian({tokens, c.heads, c.head_dim}, 7), q});
    EXPECT_LE(difference(causal_attention(queries, k, v, {0, tokens + n}, c).narrow(0, tokens, n), ours),
              kAttentionBound);
}

TEST(PrefixOfAttention, is_neither_normed_nor_turned) {
    const AttentionCase c{"", 4, 2, 8, {0, 8, 21}, 0};
    const at::Tensor positions = at::cat({at::arange(3, 11, at::kLong), at::arange(3, 16, at::kLong)});
    const RopeTable table = rope_table(positions, gaussian({4}, 5).abs(), at::kFloat);
    const HeadNorms norms{.q = {.weight = gaussian({8}, 6), .eps = 1e-6},
                          .k = {.weight = gaussian({8}, 7), .eps = 1e-6}};
    const std::vector<at::Tensor> in = inputs_of({c, 3});
    const at::Tensor rows = rows_of(in[0], in[1], in[2], c);
    const HeadsOfRows turned(rotated(rows.clone(), table, c.shape(), &norms), c.shape());
    const at::Tensor ours =
        rotary_attention(rows.clone(), table, c.offsets, c.shape(), &norms, prefix_of(in[3], c.offsets));
    EXPECT_TRUE(ours.equal(prefixed_attention({turned.q, turned.k, turned.v, in[3]}, c)));
}

TEST(PrefixOfAttention, gets_its_gradient_where_nothing_else_has_one) {
    const AttentionCase c{"", 4, 2, 8, {0, 8, 21}, 0};
    std::vector<at::Tensor> all = inputs_of({c, 3}), alone = inputs_of({c, 3});
    for (at::Tensor& input : all) input.requires_grad_();
    alone[3].requires_grad_();
    prefixed_attention(all, c).sin().sum().backward();
    prefixed_attention(alone, c).sin().sum().backward();
    EXPECT_TRUE(alone[3].grad().equal(all[3].grad()));
    EXPECT_TRUE(alone[3].grad().any().item<bool>());
}

}  // namespace
}  // namespace qlora::ops
