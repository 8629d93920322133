#include <stdexcept>

#include "kernels/elementwise_rows.h"

namespace qlora::kernels::cpu {
namespace {

constexpr double kEps = 1e-5;

struct Normed {
    std::vector<float> y, inverse;
};

Normed norm(const std::vector<float>& x, const std::vector<float>& weight, double eps = kEps,
            size_t shift = 0) {
    const int64_t size = static_cast<int64_t>(weight.size());
    const int64_t rows = static_cast<int64_t>(x.size()) / size;
    Guarded from(x, shift), scale(weight, shift), y(rows * size, shift), inverse(rows, shift);
    rms_norm(from.data(), scale.data(), eps, rows, size, y.data(), inverse.data());
    EXPECT_TRUE(y.intact() && inverse.intact());
    Guarded again(rows * size, shift);
    rms_norm_recompute(from.data(), scale.data(), inverse.data(), rows, size, again.data());
    EXPECT_TRUE(again.intact());
    EXPECT_EQ(bits_of(again.values()), bits_of(y.values()));
    return {y.values(), inverse.values()};
}

/// residual empty: none.
std::vector<float> backward(const std::vector<float>& dy, const std::vector<float>& x,
                            const std::vector<float>& weight, const std::vector<float>& inverse,
                            const std::vector<float>& residual = {}, size_t shift = 0) {
    const int64_t size = static_cast<int64_t>(weight.size());
    Guarded gradient(dy, shift), from(x, shift), scale(weight, shift), direct(residual, shift);
    Guarded dx(static_cast<int64_t>(x.size()), shift);
    rms_norm_backward(gradient.data(), from.data(), scale.data(), inverse.data(),
                      residual.empty() ? nullptr : direct.data(), static_cast<int64_t>(inverse.size()), size,
                      dx.data());
    EXPECT_TRUE(dx.intact());
    return dx.values();
}

class RmsNorm : public OnEveryPath {};

TEST_P(RmsNorm, FollowsTheFormulaInDouble) {
    for (int64_t size : row_sizes()) {
        const std::vector<float> x = gaussian(3 * size, 1, 2.0f), weight = gaussian(size, 2);
        const Normed found = norm(x, weight, kEps, static_cast<size_t>(size % 8));
        for (int64_t i = 0; i < 3 * size; ++i) {
            double squares = 0.0;
            for (float value : part(x, i / size * size, size)) squares += double{value} * value;
            const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(size) + kEps);
            const double y = weight[static_cast<size_t>(i % size)] * (x[static_cast<size_t>(i)] * inverse);
            // A square and the sum of two are rounded, which the root halves, then the inverse; then two
            // products. The sum in double adds nothing visible.
            ASSERT_NEAR(found.y[static_cast<size_t>(i)], y, 4.1 * kRounding * std::abs(y))
                << size << " " << i;
            ASSERT_NEAR(found.inverse[static_cast<size_t>(i / size)], inverse, 2.1 * kRounding * inverse);
        }
    }
}

TEST_P(RmsNorm, SquaresAreOfFp32) {
    for (float magnitude : {1e18f, 1e-18f}) {
        const std::vector<float> x(19, magnitude), weight(19, 1.0f);
        for (float y : norm(x, weight, 0.0).y) EXPECT_NEAR(y, 1.0f, 5 * kRounding) << magnitude;
    }
    for (float magnitude : {2e19f, 1e30f, 3e38f}) {
        const std::vector<float> x(19, magnitude), weight(19, 1.0f);
        for (float y : norm(x, weight).y) EXPECT_EQ(y, 0.0f) << magnitude;
    }
}

TEST_P(RmsNorm, NanAndInfinityStayInTheirRow) {
    const int64_t size = 21;
    std::vector<float> x = gaussian(3 * size, 1);
    const std::vector<float> weight = gaussian(size, 2);
    const std::vector<float> clean = norm(x, weight).y;
    for (float bad : {kNan, kInfinity}) {
        x[static_cast<size_t>(size + 20)] = bad;
        const Normed found = norm(x, weight);
        EXPECT_TRUE(std::isnan(bad) ? std::isnan(found.inverse[1]) : found.inverse[1] == 0.0f);
        EXPECT_TRUE(std::isnan(found.y[static_cast<size_t>(size + 20)]));
        EXPECT_EQ(part(found.y, 0, size), part(clean, 0, size));
        EXPECT_EQ(part(found.y, 2 * size, size), part(clean, 2 * size, size));
    }
}

TEST_P(RmsNorm, BackwardFollowsTheFormulaInDouble) {
    for (int64_t size : row_sizes()) {
        const std::vector<float> x = gaussian(2 * size, 1, 2.0f), dy = gaussian(2 * size, 3),
                                 weight = gaussian(size, 2), residual = gaussian(2 * size, 4);
        const std::vector<float> inverse = norm(x, weight).inverse;
        for (const bool with_residual : {false, true}) {
            const std::vector<float> found =
                backward(dy, x, weight, inverse, with_residual ? residual : std::vector<float>{},
                         static_cast<size_t>(size % 8));
            for (int64_t row = 0; row < 2; ++row) {
                const double scale = inverse[static_cast<size_t>(row)];
                double mean = 0.0, mean_magnitude = 0.0;
                const auto g = [&](int64_t i) {
                    return double{dy[static_cast<size_t>(row * size + i)]} * weight[static_cast<size_t>(i)];
                };
                const auto n = [&](int64_t i) { return x[static_cast<size_t>(row * size + i)] * scale; };
                for (int64_t i = 0; i < size; ++i) {
                    mean += g(i) * n(i) / static_cast<double>(size);
                    mean_magnitude += std::abs(g(i) * n(i)) / static_cast<double>(size);
                }
                for (int64_t i = 0; i < size; ++i) {
                    const size_t at = static_cast<size_t>(row * size + i);
                    const double direct = with_residual ? double{residual[at]} : 0.0;
                    const double expected = scale * (g(i) - n(i) * mean) + direct;
                    // The products and the mean carry up to three roundings each, then three more operations.
                    const double size_of_terms =
                        scale * (std::abs(g(i)) + std::abs(n(i)) * mean_magnitude) + std::abs(direct);
                    ASSERT_NEAR(found[at], expected, 7 * kRounding * size_of_terms) << size << " " << i;
                }
            }
        }
    }
}

TEST_P(RmsNorm, BackwardIsTheSlopeOfForward) {
    const int64_t size = 13;
    const std::vector<float> x = gaussian(size, 1), dy = gaussian(size, 3), weight = gaussian(size, 2);
    const std::vector<float> dx = backward(dy, x, weight, norm(x, weight).inverse);
    const auto objective = [&](std::vector<double> values) {
        double squares = 0.0, sum = 0.0;
        for (double value : values) squares += value * value;
        const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(size) + kEps);
        for (size_t i = 0; i < values.size(); ++i) sum += dy[i] * weight[i] * values[i] * inverse;
        return sum;
    };
    for (size_t i = 0; i < x.size(); ++i) {
        std::vector<double> up(x.begin(), x.end()), down = up;
        up[i] += 1e-5;
        down[i] -= 1e-5;
        // fp32 leaves 1e-6 of values near 1, the difference quotient less.
        EXPECT_NEAR(dx[i], (objective(up) - objective(down)) / 2e-5, 2e-6);
    }
}

TEST_P(RmsNorm, GradientMayBeWrittenOverTheResidual) {
    const int64_t size = 45;
    const std::vector<float> x = gaussian(2 * size, 1), dy = gaussian(2 * size, 3),
                             weight = gaussian(size, 2);
    std::vector<float> residual = gaussian(2 * size, 4);
    const std::vector<float> inverse = norm(x, weight).inverse;
    const std::vector<float> expected = backward(dy, x, weight, inverse, residual);
    rms_norm_backward(dy.data(), x.data(), weight.data(), inverse.data(), residual.data(), 2, size,
                      residual.data());
    EXPECT_EQ(residual, expected);
}

TEST_P(RmsNorm, IsAddedToRowsInTheSameBitsAsAfterwards) {
    for (int64_t size : row_sizes()) {
        const std::vector<float> x = gaussian(2 * size, 1), weight = gaussian(size, 2),
                                 to_add = gaussian(2 * size, 3);
        const std::vector<float> y = norm(x, weight).y;
        for (const float multiplier : {1.0f, 0.22f}) {
            Guarded found(2 * size, 3), inverse(2);
            rms_norm(x.data(), weight.data(), kEps, 2, size, found.data(), inverse.data(),
                     {to_add.data(), multiplier});
            EXPECT_TRUE(found.intact());
            std::vector<float> expected;
            for (size_t i = 0; i < y.size(); ++i) expected.push_back(to_add[i] + multiplier * y[i]);
            ASSERT_EQ(bits_of(found.values()), bits_of(expected)) << size;
        }
    }
}

TEST_P(RmsNorm, RowsOneByOneGiveTheBitsOfTheWhole) {
    const int64_t rows = 5, size = 77;
    const std::vector<float> x = gaussian(rows * size, 1), dy = gaussian(rows * size, 3),
                             weight = gaussian(size, 2);
    const Normed whole = norm(x, weight);
    const std::vector<float> whole_dx = backward(dy, x, weight, whole.inverse, x);
    for (int64_t row = 0; row < rows; ++row) {
        const std::vector<float> one = part(x, row * size, size);
        const Normed found = norm(one, weight, kEps, static_cast<size_t>(row));
        EXPECT_EQ(found.y, part(whole.y, row * size, size));
        EXPECT_EQ(backward(part(dy, row * size, size), one, weight, found.inverse, one),
                  part(whole_dx, row * size, size));
    }
}

TEST_P(RmsNorm, ImpossibleArgumentsThrow) {
    float x[4] = {}, out[4] = {};
    EXPECT_THROW(rms_norm(x, x, kEps, -1, 4, out, out), std::invalid_argument);
    EXPECT_THROW(rms_norm(x, x, kEps, 1, 0, out, out), std::invalid_argument);
    EXPECT_THROW(rms_norm(x, x, -1.0, 1, 4, out, out), std::invalid_argument);
    EXPECT_THROW(rms_norm(x, x, std::nan(""), 1, 4, out, out), std::invalid_argument);
    EXPECT_THROW(rms_norm_recompute(x, x, x, 1, 0, out), std::invalid_argument);
    EXPECT_THROW(rms_norm_backward(x, x, x, x, nullptr, -2, 4, out), std::invalid_argument);
    EXPECT_NO_THROW(rms_norm(nullptr, x, kEps, 0, 4, nullptr, nullptr));
}

INSTANTIATE_TEST_SUITE_P(Paths, RmsNorm, testing::ValuesIn(supported_sets()), set_name);

TEST(RmsNormPaths, GiveTheSameBits) {
    for (int64_t size : row_sizes()) {
        for (uint32_t seed : {1u, 2u}) {
            const bool wild = seed == 2;
            const std::vector<float> x = wild ? wild_values(2 * size, 5) : gaussian(2 * size, 5);
            const std::vector<float> dy = wild ? wild_values(2 * size, 6) : gaussian(2 * size, 6);
            const std::vector<float> weight = gaussian(size, 7);
            expect_same_bits_on_every_path([&] {
                const Normed found = norm(x, weight);
                return joined(joined(found.y, found.inverse), backward(dy, x, weight, found.inverse, dy));
            });
        }
    }
}

}  // namespace
}  // namespace qlora::kernels::cpu
