#include "qlora/ops/rope.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <cmath>
#include <deque>

#include "ops/reference.h"

namespace qlora::ops {
namespace {

using namespace test;

/// Heads [T, heads, head_dim] rotated, as one node.
at::Tensor rope(const at::Tensor& x, const RopeTable& table) {
    const auto rotate = [table](const at::Tensor& heads, RopeDirection direction) {
        at::Tensor rows = heads.reshape({heads.size(0), -1}).clone();
        rope_(rows, {heads.size(1), heads.size(2)}, table, direction);
        return rows.view(heads.sizes());
    };
    // Nodes refer to it: it has to outlive them.
    static std::deque<Pair::Backward> backwards;
    backwards.emplace_back(
        [rotate](const at::Tensor& g, const at::Tensor&) { return rotate(g, RopeDirection::kBackward); });
    return Pair::apply(
        x, [rotate](const at::Tensor& heads) { return rotate(heads, RopeDirection::kForward); },
        &backwards.back());
}

at::Tensor frequencies(std::int64_t head_dim) {
    return 1.0 /
           at::pow(at::Scalar(10000.0), at::arange(0, head_dim, 2, at::kLong).to(at::kFloat) / head_dim);
}

/// Each pair (x[i], x[i + half]), or (x[2i], x[2i + 1]), turned by its angle, in the dtype of x; the
/// dimensions behind them as they are.
at::Tensor turned(const at::Tensor& x, const RopeTable& table) {
    const std::int64_t dims = table.dims(), half = dims / 2;
    const at::Tensor first = table.pairs ? x.slice(-1, 0, dims, 2) : x.narrow(-1, 0, half);
    const at::Tensor second = table.pairs ? x.slice(-1, 1, dims, 2) : x.narrow(-1, half, half);
    const at::Tensor c = table.cos.to(x.scalar_type()).unsqueeze(1),
                     s = table.sin.to(x.scalar_type()).unsqueeze(1);
    const at::Tensor a = first * c - second * s, b = second * c + first * s;
    const at::Tensor both = table.pairs ? at::stack({a, b}, -1).flatten(-2) : at::cat({a, b}, -1);
    return at::cat({both, x.narrow(-1, dims, x.size(-1) - dims)}, -1);
}

TEST(RopeTable, holds_cos_and_sin_of_position_times_frequency) {
    const at::Tensor positions = at::tensor(at::ArrayRef<std::int64_t>{0, 1, 2, 77, 2047}, at::kLong);
    const at::Tensor inverse = frequencies(16);
    const RopeTable table = rope_table(positions, inverse, at::kFloat);
    const at::Tensor angles = positions.to(at::kDouble).unsqueeze(1) * inverse.to(at::kDouble);
    // The angle is one fp32 product: 2047 carries an error of up to 2047 * 2^-24 = 1.2e-4 into its cosine.
    EXPECT_LE(difference(table.cos, angles.cos()), 1.3e-4);
    EXPECT_LE(difference(table.sin, angles.sin()), 1.3e-4);
    EXPECT_TRUE(table.cos[0].equal(at::ones({8})));
    const RopeTable rounded = rope_table(positions, inverse, at::kBFloat16);
    EXPECT_TRUE(rounded.cos.equal(table.cos.to(at::kBFloat16)));
    EXPECT_TRUE(rounded.sin.equal(table.sin.to(at::kBFloat16)));
}

TEST(Rope, equals_autograd_in_fp64) {
    for (const std::int64_t head_dim : {2, 6, 64}) {
        const at::Tensor positions = at::tensor(at::ArrayRef<std::int64_t>{0, 1, 2, 3, 0, 1, 500}, at::kLong);
        for (const std::int64_t dims : {head_dim, head_dim / 4 * 2}) {
            for (const bool pairs : {false, true}) {
                if (dims == 0) continue;
                RopeTable table = rope_table(positions, frequencies(dims), at::kFloat);
                table.pairs = pairs;
                expect_equal_with_gradients(
                    {gaussian({7, 3, head_dim}, 1)}, [&](const auto& in) { return rope(in[0], table); },
                    [&](const auto& in) { return turned(in[0], table); },
                    3e-7);  // two products and a sum
            }
        }
    }
}

TEST(Rope, touches_nothing_but_the_first_heads_of_each_row) {
    const RopeTable table = rope_table(at::arange(4, at::kLong), frequencies(8), at::kFloat);
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        const RopeTable typed = {.cos = table.cos.to(dtype), .sin = table.sin.to(dtype)};
        const at::Tensor before = gaussian({4, 50}, 1).to(dtype);
        at::Tensor wide = before.clone();
        at::Tensor columns = wide.narrow(1, 5, 30);
        rope_(columns, {2, 8}, typed, RopeDirection::kForward);
        at::Tensor alone = before.narrow(1, 5, 16).clone();
        rope_(alone, {2, 8}, typed, RopeDirection::kForward);
        EXPECT_TRUE(wide.narrow(1, 5, 16).equal(alone));
        EXPECT_TRUE(wide.narrow(1, 0, 5).equal(before.narrow(1, 0, 5)));
        EXPECT_TRUE(wide.narrow(1, 21, 29).equal(before.narrow(1, 21, 29)));
    }
}

TEST(Rope, heads_of_groups_turn_as_alone) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        const RopeTable table = rope_table(at::arange(5, at::kLong), frequencies(4), dtype);
        const at::Tensor before = gaussian({5, 3 * 24}, 1).to(dtype);
        at::Tensor x = before.clone();
        rope_(x, {.heads = 2, .head_dim = 8, .groups = 3, .group_stride = 24}, table,
              RopeDirection::kForward);
        for (std::int64_t column = 0; column < 72; column += 8) {
            at::Tensor head = before.narrow(1, column, 8).clone();
            if (column % 24 < 16) rope_(head, {1, 8}, table, RopeDirection::kForward);
            EXPECT_TRUE(x.narrow(1, column, 8).equal(head)) << column;
        }
    }
}

TEST(Rope, angles_in_fp32_round_the_result_of_bf16_heads_alone) {
    for (const bool pairs : {false, true}) {
        RopeTable table = rope_table(at::arange(31, at::kLong), frequencies(32), at::kFloat);
        table.pairs = pairs;
        const at::Tensor x = gaussian({31, 2, 32}, 1).to(at::kBFloat16);
        const at::Tensor wide = turned(x.to(at::kFloat), table);
        EXPECT_TRUE(rope(x, table).equal(wide.to(at::kBFloat16)));
    }
}

TEST(Rope, bf16_rounds_each_product_and_the_sum) {
    const RopeTable table = rope_table(at::arange(31, at::kLong), frequencies(32), at::kBFloat16);
    const at::Tensor x = gaussian({31, 2, 32}, 1).to(at::kBFloat16);
    const at::Tensor y = rope(x, table).to(at::kFloat).contiguous();
    const at::Tensor in = x.to(at::kFloat), cos = table.cos.to(at::kFloat), sin = table.sin.to(at::kFloat);
    for (std::int64_t t = 0; t < 31; ++t) {
        for (std::int64_t i = 0; i < 16; ++i) {
            const float a = in[t][1][i].item<float>(), b = in[t][1][i + 16].item<float>();
            const float c = cos[t][i].item<float>(), s = sin[t][i].item<float>();
            EXPECT_EQ(y[t][1][i].item<float>(), round_to_bf16(round_to_bf16(a * c) - round_to_bf16(b * s)));
            EXPECT_EQ(y[t][1][i + 16].item<float>(),
                      round_to_bf16(round_to_bf16(b * c) + round_to_bf16(a * s)));
        }
    }
}

}  // namespace
}  // namespace qlora::ops
