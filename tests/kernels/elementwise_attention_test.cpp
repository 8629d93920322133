#include <stdexcept>

#include "kernels/elementwise_rows.h"

namespace qlora::kernels::cpu {
namespace {

struct Shape {
    int64_t rows, columns, gap;  // gap: floats between the end of a row and the next
    VisibleColumns visible;
    int64_t stride() const { return columns + gap; }
    int64_t floats() const { return rows * stride(); }
    bool sees(int64_t row, int64_t column) const {
        const int64_t last = visible.limit + row;
        return column < last && (visible.window == 0 || column >= last - visible.window);
    }
    size_t at(int64_t row, int64_t column) const { return static_cast<size_t>(row * stride() + column); }
};

constexpr int64_t kStride = 3;  // of logsumexp and delta

struct Softmax {
    std::vector<float> p, logsumexp;
};

Softmax softmax(const std::vector<float>& scores, const Shape& shape, ScoreRule rule, size_t shift = 0) {
    Guarded values(scores, shift), logsumexp(shape.rows * kStride);
    attention_softmax(values.data(), shape.rows, shape.columns, shape.stride(), rule, shape.visible,
                      logsumexp.data(), kStride);
    EXPECT_TRUE(values.intact() && logsumexp.intact());
    return {values.values(), logsumexp.values()};
}

struct Gradients {
    std::vector<float> p, scores;
};

Gradients backward(const std::vector<float>& scores, const std::vector<float>& dp, const Shape& shape,
                   ScoreRule rule, std::vector<float> logsumexp, std::vector<float> delta, size_t shift = 0) {
    Guarded values(scores, shift), gradient(dp, shift);
    attention_softmax_backward(values.data(), gradient.data(), shape.rows, shape.columns, shape.stride(),
                               rule, shape.visible, logsumexp.data(), kStride, delta.data(), kStride);
    EXPECT_TRUE(values.intact() && gradient.intact());
    return {values.values(), gradient.values()};
}

/// delta[row] = sum of p dp, as attention's backward pass passes it.
std::vector<float> deltas(const std::vector<float>& p, const std::vector<float>& dp, const Shape& shape) {
    std::vector<float> result(static_cast<size_t>(shape.rows * kStride), 99.0f);
    for (int64_t row = 0; row < shape.rows; ++row) {
        double sum = 0.0;
        for (int64_t column = 0; column < shape.columns; ++column) {
            sum += double{p[shape.at(row, column)]} * dp[shape.at(row, column)];
        }
        result[static_cast<size_t>(row * kStride)] = static_cast<float>(sum);
    }
    return result;
}

std::vector<Shape> shapes() {
    std::vector<Shape> result;
    for (int64_t columns = 1; columns <= 70; ++columns) {
        const int64_t rows = std::min<int64_t>(columns, 1 + columns % 9);
        const int64_t window = columns % 4 * (columns % 4) * 2;  // 0, 2, 8, 18
        result.push_back({rows, columns, columns % 3, {columns - rows + 1, window}});
    }
    result.push_back({70, 70, 0, {1, 0}});
    result.push_back({70, 70, 1, {1, 16}});
    result.push_back({5, 100, 4, {20, 0}});  // columns that no row sees
    result.push_back({3, 2050, 0, {2048, 0}});
    result.push_back({3, 2050, 0, {2048, 1021}});
    return result;
}

class AttentionSoftmax : public OnEveryPath {};

/// What a score counts.
double counted(double score, ScoreRule rule) {
    const double x = rule.scale * score;
    return rule.softcap == 0.0f ? x : rule.softcap * std::tanh(x / rule.softcap);
}
double slope(double score, ScoreRule rule) {
    const double t = rule.softcap == 0.0f ? 0.0 : counted(score, rule) / rule.softcap;
    return rule.scale * (1.0 - t * t);
}
/// Roundings on the way to it: of the product, or of the share of the softcap, tanh and the product with it.
double roundings(ScoreRule rule) {
    return rule.softcap == 0.0f ? 1.0 : 8.0;
}

TEST_P(AttentionSoftmax, FollowsTheFormulaInDouble) {
    for (const Shape& shape : shapes()) {
        for (ScoreRule rule : {ScoreRule{0.125f}, ScoreRule{-1.0f}, ScoreRule{0.0f}, ScoreRule{0.3f, 5.0f},
                               ScoreRule{0.1f, 50.0f}}) {
            const std::vector<float> scores = gaussian(shape.floats(), 1, 6.0f);
            const Softmax found = softmax(scores, shape, rule, static_cast<size_t>(shape.columns % 8));
            for (int64_t row = 0; row < shape.rows; ++row) {
                double max = -INFINITY, sum = 0.0;
                for (int64_t column = 0; column < shape.columns; ++column) {
                    if (shape.sees(row, column))
                        max = std::max(max, counted(scores[shape.at(row, column)], rule));
                }
                for (int64_t column = 0; column < shape.columns; ++column) {
                    const double x = counted(scores[shape.at(row, column)], rule);
                    if (shape.sees(row, column)) sum += std::exp(x - max);
                }
                const float logsumexp = found.logsumexp[static_cast<size_t>(row * kStride)];
                ASSERT_NEAR(logsumexp, max + std::log(sum),
                            1e-6 + (1 + roundings(rule)) * kRounding * std::abs(max));
                ASSERT_EQ(found.logsumexp[static_cast<size_t>(row * kStride + 1)], -7.0f);
                for (int64_t column = 0; column < shape.stride(); ++column) {
                    const size_t at = shape.at(row, column);
                    if (column >= shape.columns) {
                        ASSERT_EQ(found.p[at], scores[at]) << "between rows";
                    } else if (!shape.sees(row, column)) {
                        ASSERT_EQ(float_bits(found.p[at]), 0u);
                    } else {
                        const double x = counted(scores[at], rule);
                        const double p = std::exp(x - max) / sum;
                        // The score, the maximum and the difference are rounded, which moves the exponential
                        // by those errors; it, the inverse of the sum and the product follow.
                        const double moved = roundings(rule) * (std::abs(x) + std::abs(max)) + (max - x);
                        ASSERT_NEAR(found.p[at], p, p * ((moved + 8) * kRounding + 1e-6));
                    }
                }
            }
        }
    }
}

TEST_P(AttentionSoftmax, BackwardFollowsTheFormulaInDouble) {
    for (const Shape& shape : shapes())
        for (const ScoreRule rule : {ScoreRule{0.125f}, ScoreRule{0.125f, 4.0f}}) {
            const std::vector<float> scores = gaussian(shape.floats(), 1, 6.0f),
                                     dp = gaussian(shape.floats(), 2);
            const Softmax forward = softmax(scores, shape, rule);
            const std::vector<float> delta = deltas(forward.p, dp, shape);
            const Gradients found = backward(scores, dp, shape, rule, forward.logsumexp, delta,
                                             static_cast<size_t>(shape.columns % 8));
            for (int64_t row = 0; row < shape.rows; ++row) {
                const double logsumexp = forward.logsumexp[static_cast<size_t>(row * kStride)];
                const double mean = delta[static_cast<size_t>(row * kStride)];
                for (int64_t column = 0; column < shape.stride(); ++column) {
                    const size_t at = shape.at(row, column);
                    if (column >= shape.columns) {
                        ASSERT_EQ(found.p[at], scores[at]);
                        ASSERT_EQ(found.scores[at], dp[at]);
                        continue;
                    }
                    if (!shape.sees(row, column)) {
                        ASSERT_EQ(float_bits(found.p[at]), 0u);
                        ASSERT_EQ(float_bits(found.scores[at]), 0u);
                        continue;
                    }
                    const double x = counted(scores[at], rule);
                    const double p = std::exp(x - logsumexp);
                    // A scale of 2^-3 is exact; the difference is rounded, then the exponential's two
                    // roundings.
                    const double of_score = rule.softcap == 0.0f ? 0.0 : roundings(rule) * std::abs(x);
                    const double relative = (std::abs(x - logsumexp) + of_score + 2.1) * kRounding;
                    ASSERT_NEAR(found.p[at], p, p * relative);
                    ASSERT_NEAR(found.p[at], forward.p[at], p * 3e-6);
                    const double expected = slope(scores[at], rule) * p * (dp[at] - mean);
                    ASSERT_NEAR(found.scores[at], expected,
                                rule.scale * p * (std::abs(dp[at]) + std::abs(mean)) *
                                    (relative + (rule.softcap == 0.0f ? 3 : 20) * kRounding));
                }
            }
        }
}

TEST_P(AttentionSoftmax, BackwardIsTheSlopeOfForward) {
    const Shape shape = {3, 6, 0, {4, 3}};
    for (const ScoreRule rule : {ScoreRule{0.7f}, ScoreRule{0.7f, 1.5f}}) {
        const std::vector<float> scores = gaussian(shape.floats(), 1, 2.0f), dp = gaussian(shape.floats(), 2);
        const Softmax forward = softmax(scores, shape, rule);
        const Gradients found =
            backward(scores, dp, shape, rule, forward.logsumexp, deltas(forward.p, dp, shape));
        const auto objective = [&](const std::vector<double>& values, int64_t row) {
            double sum = 0.0, weighted = 0.0;
            for (int64_t column = 0; column < shape.columns; ++column) {
                if (!shape.sees(row, column)) continue;
                const double e = std::exp(counted(values[shape.at(row, column)], rule));
                sum += e;
                weighted += e * dp[shape.at(row, column)];
            }
            return weighted / sum;
        };
        for (int64_t row = 0; row < shape.rows; ++row) {
            for (int64_t column = 0; column < shape.columns; ++column) {
                std::vector<double> up(scores.begin(), scores.end()), down = up;
                up[shape.at(row, column)] += 1e-5;
                down[shape.at(row, column)] -= 1e-5;
                const double steepness = (objective(up, row) - objective(down, row)) / 2e-5;
                EXPECT_NEAR(found.scores[shape.at(row, column)], steepness, 1e-6);  // values near 1 in fp32
            }
        }
    }
}

TEST_P(AttentionSoftmax, WhatIsNotVisibleHasNoInfluence) {
    for (float hidden : {kNan, kInfinity, 1e30f}) {
        const Shape shape = {4, 40, 0, {30, 11}};
        std::vector<float> scores = gaussian(shape.floats(), 1, 3.0f), dp = gaussian(shape.floats(), 2);
        const Softmax clean = softmax(scores, shape, {0.5f});
        const std::vector<float> delta = deltas(clean.p, dp, shape);
        const Gradients clean_gradients = backward(scores, dp, shape, {0.5f}, clean.logsumexp, delta);
        for (int64_t row = 0; row < shape.rows; ++row) {
            for (int64_t column = 0; column < shape.columns; ++column) {
                if (shape.sees(row, column)) continue;
                scores[shape.at(row, column)] = hidden;
                dp[shape.at(row, column)] = hidden;
            }
        }
        const Softmax found = softmax(scores, shape, {0.5f});
        EXPECT_EQ(found.p, clean.p);
        EXPECT_EQ(found.logsumexp, clean.logsumexp);
        const Gradients gradients = backward(scores, dp, shape, {0.5f}, clean.logsumexp, delta);
        EXPECT_EQ(gradients.p, clean_gradients.p);
        EXPECT_EQ(gradients.scores, clean_gradients.scores);
    }
}

TEST_P(AttentionSoftmax, ExtremesGiveTheLimitsAndNanItsRow) {
    const Shape shape = {2, 12, 0, {11, 0}};
    std::vector<float> scores(24, -1e4f);
    scores[3] = 1e4f;
    scores[12 + 11] = kNan;
    const Softmax found = softmax(scores, shape, {1.0f});
    for (size_t i = 0; i < 12; ++i) EXPECT_EQ(found.p[i], i == 3 ? 1.0f : 0.0f);
    EXPECT_EQ(found.logsumexp[0], 1e4f);
    for (size_t i = 12; i < 24; ++i) EXPECT_TRUE(std::isnan(found.p[i]));
    EXPECT_TRUE(std::isnan(found.logsumexp[kStride]));
}

TEST_P(AttentionSoftmax, RowsOneByOneGiveTheBitsOfTheWhole) {
    const Shape whole = {7, 50, 2, {44, 21}};
    const std::vector<float> scores = gaussian(whole.floats(), 1, 3.0f), dp = gaussian(whole.floats(), 2);
    const Softmax forward = softmax(scores, whole, {0.3f});
    const std::vector<float> delta = deltas(forward.p, dp, whole);
    const Gradients gradients = backward(scores, dp, whole, {0.3f}, forward.logsumexp, delta);
    for (int64_t row = 0; row < whole.rows; ++row) {
        const Shape one = {1, 50, 2, {44 + row, 21}};
        const auto own = [&](const std::vector<float>& values) {
            return part(values, row * whole.stride(), whole.stride());
        };
        const Softmax found = softmax(own(scores), one, {0.3f}, static_cast<size_t>(row));
        EXPECT_EQ(found.p, own(forward.p));
        EXPECT_EQ(found.logsumexp[0], forward.logsumexp[static_cast<size_t>(row * kStride)]);
        const Gradients back =
            backward(own(scores), own(dp), one, {0.3f}, found.logsumexp, part(delta, row * kStride, kStride));
        EXPECT_EQ(back.p, own(gradients.p));
        EXPECT_EQ(back.scores, own(gradients.scores));
    }
}

TEST_P(AttentionSoftmax, ImpossibleArgumentsThrow) {
    float x[16] = {}, y[16] = {}, z[4] = {};
    const auto both_throw = [&](int64_t rows, int64_t columns, int64_t stride, VisibleColumns visible,
                                int64_t out_stride) {
        EXPECT_THROW(attention_softmax(x, rows, columns, stride, {1.0f}, visible, z, out_stride),
                     std::invalid_argument);
        EXPECT_THROW(
            attention_softmax_backward(x, y, rows, columns, stride, {1.0f}, visible, z, out_stride, z, 1),
            std::invalid_argument);
    };
    both_throw(-1, 4, 4, {1, 0}, 1);
    both_throw(1, -4, 4, {1, 0}, 1);
    both_throw(1, 4, 3, {1, 0}, 1);
    both_throw(1, 4, 4, {0, 0}, 1);
    both_throw(1, 4, 4, {1, -1}, 1);
    both_throw(2, 4, 4, {4, 0}, 1);  // the second row would see a fifth column
    both_throw(1, 4, 4, {1, 0}, 0);
    EXPECT_THROW(attention_softmax_backward(x, y, 1, 4, 4, {1.0f}, {1, 0}, z, 1, z, 0),
                 std::invalid_argument);
    EXPECT_THROW(attention_softmax(x, 1, 4, 4, {1.0f, -1.0f}, {1, 0}, z, 1), std::invalid_argument);
    EXPECT_THROW(attention_softmax(x, 1, 4, 4, {1.0f, kInfinity}, {1, 0}, z, 1), std::invalid_argument);
    EXPECT_NO_THROW(attention_softmax(x, 2, 4, 4, {1.0f}, {3, 0}, z, 1));
}

INSTANTIATE_TEST_SUITE_P(Paths, AttentionSoftmax, testing::ValuesIn(supported_sets()), set_name);

TEST(AttentionSoftmaxPaths, GiveTheSameBits) {
    for (const Shape& shape : shapes()) {
        const std::vector<float> dp = gaussian(shape.floats(), 2);
        for (const auto& scores : {gaussian(shape.floats(), 1, 6.0f), wild_values(shape.floats(), 3)}) {
            for (const ScoreRule rule : {ScoreRule{0.3f}, ScoreRule{0.3f, 2.0f}})
                expect_same_bits_on_every_path([&] {
                    const Softmax found = softmax(scores, shape, rule);
                    const Gradients back =
                        backward(scores, dp, shape, rule, found.logsumexp, deltas(found.p, dp, shape));
                    return joined(joined(found.p, found.logsumexp), joined(back.p, back.scores));
                });
        }
    }
}

}  // namespace
}  // namespace qlora::kernels::cpu
