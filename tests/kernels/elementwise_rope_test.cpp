#include <stdexcept>

#include "kernels/elementwise_rows.h"

namespace qlora::kernels::cpu {
namespace {

struct Shape {
    int64_t tokens, heads, head_dim, gap;  // gap: floats of a row behind the heads
    int64_t stride() const { return heads * head_dim + gap; }
    int64_t half() const { return head_dim / 2; }
};

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
    rope(values.data(), cos.data(), sin.data(), shape.tokens, shape.heads, shape.head_dim, shape.stride(),
         direction);
    EXPECT_TRUE(values.intact());
    return values.values();
}

class Rope : public OnEveryPath {};

TEST_P(Rope, FollowsTheFormulaInDouble) {
    for (int64_t head_dim = 2; head_dim <= 140; head_dim += 2) {
        const Shape shape = {4, 3, head_dim, head_dim % 5};
        const std::vector<float> x = gaussian(shape.tokens * shape.stride(), 1);
        const Angles a = angles(shape);
        for (int direction : {1, -1}) {
            const std::vector<float> found =
                rotate(x, a, shape, direction, static_cast<size_t>(head_dim % 8));
            for (int64_t i = 0; i < shape.tokens * shape.stride(); ++i) {
                const size_t at = static_cast<size_t>(i);
                const int64_t token = i / shape.stride(), column = i % shape.stride();
                if (column >= shape.heads * head_dim) {
                    ASSERT_EQ(found[at], x[at]) << "behind the heads";
                    continue;
                }
                const bool first = column % head_dim < shape.half();
                const size_t angle = static_cast<size_t>(token * shape.half() + column % shape.half());
                const double other = first ? -double{x[at + static_cast<size_t>(shape.half())]}
                                           : double{x[at - static_cast<size_t>(shape.half())]};
                const double straight = double{x[at]} * a.cos[angle];
                const double crossed = direction * other * a.sin[angle];
                // One rounding of each product and one of their sum.
                ASSERT_NEAR(found[at], straight + crossed,
                            2.1 * kRounding * (std::abs(straight) + std::abs(crossed)))
                    << head_dim << " " << i;
            }
        }
    }
}

TEST_P(Rope, BackwardIsTheTransposeOfForward) {
    const Shape shape = {5, 2, 20, 0};
    const Angles a = angles(shape);
    const std::vector<float> x = gaussian(shape.tokens * shape.stride(), 1);
    const std::vector<float> y = gaussian(shape.tokens * shape.stride(), 2);
    const std::vector<float> forward = rotate(x, a, shape, 1), back = rotate(y, a, shape, -1);
    double left = 0.0, right = 0.0;
    for (size_t i = 0; i < x.size(); ++i) {
        left += double{forward[i]} * y[i];
        right += double{x[i]} * back[i];
    }
    // 200 products of values near 1, each with errors near 1e-7 of random sign.
    EXPECT_NEAR(left, right, 1e-5);
    const std::vector<float> undone = rotate(forward, a, shape, -1);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(undone[i], x[i], 2e-6);
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
    EXPECT_THROW(rope(x, cos, sin, 1, 1, 7, 8, 1), std::invalid_argument);
    EXPECT_THROW(rope(x, cos, sin, 1, 1, 0, 8, 1), std::invalid_argument);
    EXPECT_THROW(rope(x, cos, sin, 1, 2, 8, 8, 1), std::invalid_argument);
    EXPECT_THROW(rope(x, cos, sin, -1, 1, 8, 8, 1), std::invalid_argument);
    EXPECT_THROW(rope(x, cos, sin, 1, -1, 8, 8, 1), std::invalid_argument);
    EXPECT_THROW(rope(x, cos, sin, 1, 1, 8, 8, 0), std::invalid_argument);
}

INSTANTIATE_TEST_SUITE_P(Paths, Rope, testing::ValuesIn(supported_sets()), set_name);

TEST(RopePaths, GiveTheSameBits) {
    for (int64_t head_dim = 2; head_dim <= 140; head_dim += 2) {
        const Shape shape = {3, 2, head_dim, 3};
        const Angles a = angles(shape);
        for (const auto& x : {gaussian(3 * shape.stride(), 1), wild_values(3 * shape.stride(), 2)}) {
            expect_same_bits_on_every_path(
                [&] { return joined(rotate(x, a, shape, 1), rotate(x, a, shape, -1)); });
        }
    }
}

}  // namespace
}  // namespace qlora::kernels::cpu
