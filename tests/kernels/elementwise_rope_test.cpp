#include <stdexcept>

#include "kernels/elementwise_rows.h"

namespace qlora::kernels::cpu {
namespace {

struct Shape {
    int64_t tokens, heads, head_dim, gap;  // gap: floats of a row behind the heads
    int64_t passing = 0;                   // dimensions of a head that do not turn
    bool pairs = false;
    int64_t groups = 1, between = 0;  // between: floats from one group of heads to the next
    int64_t dims() const { return head_dim - passing; }
    int64_t half() const { return dims() / 2; }
    int64_t group() const { return heads * head_dim + between; }
    int64_t stride() const { return groups * group() + gap; }
    RopeRows rows() const {
        return {.tokens = tokens,
                .heads = heads,
                .head_dim = head_dim,
                .dims = dims(),
                .row_stride = stride(),
                .groups = groups,
                .group_stride = group(),
                .pairs = pairs};
    }
    /// Dimension of its head that a column of a row is; -1: of none that turns.
    int64_t dimension(int64_t column) const {
        if (column >= groups * group() || column % group() >= heads * head_dim) return -1;
        const int64_t dimension = column % group() % head_dim;
        return dimension < dims() ? dimension : -1;
    }
};

/// Every size of a head; some of them in part, in pairs, in groups.
std::vector<Shape> shapes() {
    std::vector<Shape> result;
    for (int64_t head_dim = 2; head_dim <= 140; head_dim += 2) {
        for (bool pairs : {false, true}) {
            result.push_back({4, 3, head_dim, head_dim % 5, 0, pairs});
            const int64_t passing = head_dim / 3;
            result.push_back(
                {3, 2, head_dim, head_dim % 3, passing + passing % 2, pairs, 1 + head_dim % 4, head_dim % 7});
        }
    }
    return result;
}

struct Angles {
    std::vector<float> cos, sin;
};

Angles angles(const Shape& shape) {
    Angles result;
    for (int64_t token = 0; token < shape.tokens; ++token) {
        for (int64_t i = 0; i < shape.half(); ++i) {
            const double angle = static_cast<double>(token + 3) /
                                 std::pow(1e4, static_cast<double>(i) / static_cast<double>(shape.half()));
            result.cos.push_back(static_cast<float>(std::cos(angle)));
            result.sin.push_back(static_cast<float>(std::sin(angle)));
        }
    }
    return result;
}

std::vector<float> rotate(const std::vector<float>& x, const Angles& a, const Shape& shape, int direction,
                          size_t shift = 0) {
    Guarded values(x, shift), cos(a.cos, shift), sin(a.sin, shift);
    rope(values.data(), cos.data(), sin.data(), shape.rows(), direction);
    EXPECT_TRUE(values.intact());
    return values.values();
}

class Rope : public OnEveryPath {};

TEST_P(Rope, FollowsTheFormulaInDouble) {
    for (const Shape& shape : shapes()) {
        const std::vector<float> x = gaussian(shape.tokens * shape.stride(), 1);
        const Angles a = angles(shape);
        for (int direction : {1, -1}) {
            const std::vector<float> found =
                rotate(x, a, shape, direction, static_cast<size_t>(shape.head_dim % 8));
            for (int64_t i = 0; i < shape.tokens * shape.stride(); ++i) {
                const size_t at = static_cast<size_t>(i);
                const int64_t token = i / shape.stride();
                const int64_t dimension = shape.dimension(i % shape.stride());
                if (dimension < 0) {
                    ASSERT_EQ(found[at], x[at]) << "what does not turn";
                    continue;
                }
                const bool first = shape.pairs ? dimension % 2 == 0 : dimension < shape.half();
                const int64_t pair = shape.pairs ? dimension / 2 : dimension % shape.half();
                const size_t apart = static_cast<size_t>(shape.pairs ? 1 : shape.half());
                const size_t angle = static_cast<size_t>(token * shape.half() + pair);
                const double other = first ? -double{x[at + apart]} : double{x[at - apart]};
                const double straight = double{x[at]} * a.cos[angle];
                const double crossed = direction * other * a.sin[angle];
                // One rounding of each product and one of their sum.
                ASSERT_NEAR(found[at], straight + crossed,
                            2.1 * kRounding * (std::abs(straight) + std::abs(crossed)))
                    << shape.head_dim << " " << i;
            }
        }
    }
}

TEST_P(Rope, BackwardIsTheTransposeOfForward) {
    for (const Shape& shape : {Shape{5, 2, 20, 0}, Shape{5, 2, 20, 0, 8, true, 2, 3}}) {
        const Angles a = angles(shape);
        const std::vector<float> x = gaussian(shape.tokens * shape.stride(), 1);
        const std::vector<float> y = gaussian(shape.tokens * shape.stride(), 2);
        const std::vector<float> forward = rotate(x, a, shape, 1), back = rotate(y, a, shape, -1);
        double left = 0.0, right = 0.0;
        for (size_t i = 0; i < x.size(); ++i) {
            left += double{forward[i]} * y[i];
            right += double{x[i]} * back[i];
        }
        // Some 200 products of values near 1, each with errors near 1e-7 of random sign.
        EXPECT_NEAR(left, right, 1e-5);
        const std::vector<float> undone = rotate(forward, a, shape, -1);
        for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(undone[i], x[i], 2e-6);
    }
}

TEST_P(Rope, TokensOneByOneGiveTheBitsOfTheWhole) {
    const Shape whole = {6, 3, 22, 7}, one = {1, 3, 22, 7};
    const Angles a = angles(whole);
    const std::vector<float> x = gaussian(whole.tokens * whole.stride(), 1);
    const std::vector<float> expected = rotate(x, a, whole, 1);
    for (int64_t token = 0; token < whole.tokens; ++token) {
        const Angles own = {part(a.cos, token * whole.half(), whole.half()),
                            part(a.sin, token * whole.half(), whole.half())};
        EXPECT_EQ(
            rotate(part(x, token * whole.stride(), whole.stride()), own, one, 1, static_cast<size_t>(token)),
            part(expected, token * whole.stride(), whole.stride()));
    }
}

TEST_P(Rope, ImpossibleArgumentsThrow) {
    float x[8] = {}, cos[4] = {}, sin[4] = {};
    const RopeRows good{.tokens = 1, .heads = 1, .head_dim = 8, .dims = 8, .row_stride = 8};
    const auto refused = [&](auto change, int direction = 1) {
        RopeRows rows = good;
        change(rows);
        EXPECT_THROW(rope(x, cos, sin, rows, direction), std::invalid_argument);
    };
    EXPECT_NO_THROW(rope(x, cos, sin, good, 1));
    refused([](RopeRows& rows) { rows.dims = 7; });
    refused([](RopeRows& rows) { rows.dims = 0; });
    refused([](RopeRows& rows) { rows.dims = 10; });
    refused([](RopeRows& rows) { rows.heads = 2; });
    refused([](RopeRows& rows) { rows.tokens = -1; });
    refused([](RopeRows& rows) { rows.heads = -1; });
    refused([](RopeRows& rows) { rows.groups = -1; });
    refused([](RopeRows& rows) { rows.groups = 2, rows.group_stride = 8; });
    refused([](RopeRows& rows) { rows.groups = 2, rows.group_stride = 4; });
    refused([](RopeRows& rows) { rows.groups = 2, rows.heads = 0; });
    refused([](RopeRows&) {}, 0);
}

INSTANTIATE_TEST_SUITE_P(Paths, Rope, testing::ValuesIn(supported_sets()), set_name);

TEST(RopePaths, GiveTheSameBits) {
    for (const Shape& shape : shapes()) {
        const Angles a = angles(shape);
        const int64_t floats = shape.tokens * shape.stride();
        for (const auto& x : {gaussian(floats, 1), wild_values(floats, 2)}) {
            expect_same_bits_on_every_path(
                [&] { return joined(rotate(x, a, shape, 1), rotate(x, a, shape, -1)); });
        }
    }
}

}  // namespace
}  // namespace qlora::kernels::cpu
