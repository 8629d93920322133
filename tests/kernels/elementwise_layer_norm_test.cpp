#include <stdexcept>

#include "kernels/elementwise_rows.h"

namespace qlora::kernels::cpu {
namespace {

constexpr double kLayerEps = 1e-5;

struct LayerNormed {
    std::vector<float> y, mean, inverse;
};

/// bias empty: none.
LayerNormed layer(const std::vector<float>& x, const std::vector<float>& weight,
                  const std::vector<float>& bias, size_t shift = 0) {
    const int64_t size = static_cast<int64_t>(weight.size());
    const int64_t rows = static_cast<int64_t>(x.size()) / size;
    Guarded from(x, shift), scale(weight, shift), shifts(bias, shift), y(rows * size, shift),
        mean(rows, shift), inverse(rows, shift);
    const float* added = bias.empty() ? nullptr : shifts.data();
    layer_norm(from.data(), scale.data(), added, kLayerEps, rows, size, y.data(), mean.data(),
               inverse.data());
    EXPECT_TRUE(y.intact() && mean.intact() && inverse.intact());
    Guarded again(rows * size, shift);
    layer_norm_recompute(from.data(), scale.data(), added, mean.data(), inverse.data(), rows, size,
                         again.data());
    EXPECT_TRUE(again.intact());
    EXPECT_EQ(bits_of(again.values()), bits_of(y.values()));
    return {y.values(), mean.values(), inverse.values()};
}

/// residual empty: none.
std::vector<float> layer_gradient(const std::vector<float>& dy, const std::vector<float>& x,
                                  const std::vector<float>& weight, const LayerNormed& normed,
                                  const std::vector<float>& residual = {}, size_t shift = 0) {
    const int64_t size = static_cast<int64_t>(weight.size());
    Guarded gradient(dy, shift), from(x, shift), direct(residual, shift);
    Guarded dx(static_cast<int64_t>(x.size()), shift);
    layer_norm_backward(gradient.data(), from.data(), weight.data(), normed.mean.data(),
                        normed.inverse.data(), residual.empty() ? nullptr : direct.data(),
                        static_cast<int64_t>(normed.inverse.size()), size, dx.data());
    EXPECT_TRUE(dx.intact());
    return dx.values();
}

std::vector<float> far_from_zero(int64_t n, uint32_t seed) {
    std::vector<float> values = gaussian(n, seed, 2.0f);
    for (float& value : values) value += 3.0f;
    return values;
}

class LayerNorm : public OnEveryPath {};

TEST_P(LayerNorm, FollowsTheFormulaInDouble) {
    for (int64_t size : row_sizes()) {
        const std::vector<float> x = far_from_zero(3 * size, 1), weight = gaussian(size, 2);
        const std::vector<float> bias = size % 2 == 0 ? gaussian(size, 3) : std::vector<float>{};
        const LayerNormed found = layer(x, weight, bias, static_cast<size_t>(size % 8));
        for (int64_t row = 0; row < 3; ++row) {
            double mean = 0.0, squares = 0.0, largest = 0.0;
            for (float value : part(x, row * size, size)) {
                mean += value / static_cast<double>(size);
                largest = std::max(largest, std::abs(double{value}));
            }
            for (float value : part(x, row * size, size)) squares += (value - mean) * (value - mean);
            const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(size) + kLayerEps);
            const size_t at_row = static_cast<size_t>(row);
            ASSERT_NEAR(found.mean[at_row], mean, 1.1 * kRounding * std::abs(mean));
            // The rounded mean moves each difference; they are squared, and the root halves what that does.
            const double moved = kRounding * largest * inverse;
            ASSERT_NEAR(found.inverse[at_row], inverse, (3 * kRounding + 2 * moved) * inverse) << size;
            for (int64_t i = 0; i < size; ++i) {
                const size_t at = static_cast<size_t>(row * size + i);
                const double shift = bias.empty() ? 0.0 : double{bias[static_cast<size_t>(i)]};
                const double n = (x[at] - mean) * inverse, scale = weight[static_cast<size_t>(i)];
                const double tolerance =
                    std::abs(scale) * (7 * kRounding * std::abs(n) + 2 * moved * (1 + std::abs(n))) +
                    kRounding * (std::abs(scale * n) + std::abs(shift));
                ASSERT_NEAR(found.y[at], scale * n + shift, tolerance) << size << " " << i;
            }
        }
    }
}

TEST_P(LayerNorm, AMeanFarAwayDoesNotSwallowTheVariance) {
    const int64_t size = 64;
    std::vector<float> x;
    for (int64_t i = 0; i < size; ++i) x.push_back(i % 2 == 0 ? 4096.25f : 4095.75f);
    const LayerNormed found = layer(x, std::vector<float>(64, 1.0f), {});
    EXPECT_EQ(found.mean[0], 4096.0f);
    EXPECT_NEAR(found.inverse[0], 1.0 / std::sqrt(0.0625 + kLayerEps), 4e-7);
}

TEST_P(LayerNorm, BackwardFollowsTheFormulaInDouble) {
    for (int64_t size : row_sizes()) {
        const std::vector<float> x = far_from_zero(2 * size, 1), dy = gaussian(2 * size, 3),
                                 weight = gaussian(size, 2), residual = gaussian(2 * size, 4);
        const LayerNormed normed = layer(x, weight, {});
        for (const bool with_residual : {false, true}) {
            const std::vector<float> found =
                layer_gradient(dy, x, weight, normed, with_residual ? residual : std::vector<float>{},
                               static_cast<size_t>(size % 8));
            for (int64_t row = 0; row < 2; ++row) {
                const double scale = normed.inverse[static_cast<size_t>(row)];
                const double centre = normed.mean[static_cast<size_t>(row)];
                const auto g = [&](int64_t i) {
                    return double{dy[static_cast<size_t>(row * size + i)]} * weight[static_cast<size_t>(i)];
                };
                const auto n = [&](int64_t i) {
                    return (x[static_cast<size_t>(row * size + i)] - centre) * scale;
                };
                double of_g = 0.0, of_gn = 0.0, magnitude = 0.0;
                for (int64_t i = 0; i < size; ++i) {
                    of_g += g(i) / static_cast<double>(size);
                    of_gn += g(i) * n(i) / static_cast<double>(size);
                    magnitude += (std::abs(g(i)) + std::abs(g(i) * n(i))) / static_cast<double>(size);
                }
                for (int64_t i = 0; i < size; ++i) {
                    const size_t at = static_cast<size_t>(row * size + i);
                    const double direct = with_residual ? double{residual[at]} : 0.0;
                    // Terms carry up to four roundings each, then four more operations.
                    const double terms =
                        scale * (std::abs(g(i)) + (1 + std::abs(n(i))) * magnitude) + std::abs(direct);
                    ASSERT_NEAR(found[at], scale * (g(i) - of_g - n(i) * of_gn) + direct,
                                9 * kRounding * terms)
                        << size << " " << i;
                }
            }
        }
    }
}

TEST_P(LayerNorm, GradientMayBeWrittenOverTheResidual) {
    const int64_t size = 45;
    const std::vector<float> x = far_from_zero(2 * size, 1), dy = gaussian(2 * size, 3),
                             weight = gaussian(size, 2);
    std::vector<float> residual = gaussian(2 * size, 4);
    const LayerNormed normed = layer(x, weight, {});
    const std::vector<float> expected = layer_gradient(dy, x, weight, normed, residual);
    layer_norm_backward(dy.data(), x.data(), weight.data(), normed.mean.data(), normed.inverse.data(),
                        residual.data(), 2, size, residual.data());
    EXPECT_EQ(residual, expected);
}

TEST_P(LayerNorm, NanStaysInItsRow) {
    const int64_t size = 21;
    std::vector<float> x = far_from_zero(3 * size, 1);
    const std::vector<float> weight = gaussian(size, 2), bias = gaussian(size, 3);
    const std::vector<float> clean = layer(x, weight, bias).y;
    x[static_cast<size_t>(2 * size - 1)] = kNan;
    const LayerNormed found = layer(x, weight, bias);
    for (float value : part(found.y, size, size)) EXPECT_TRUE(std::isnan(value));
    EXPECT_EQ(part(found.y, 0, size), part(clean, 0, size));
    EXPECT_EQ(part(found.y, 2 * size, size), part(clean, 2 * size, size));
}

TEST_P(LayerNorm, ImpossibleArgumentsThrow) {
    float x[4] = {}, out[4] = {};
    EXPECT_THROW(layer_norm(x, x, x, kLayerEps, -1, 4, out, out, out), std::invalid_argument);
    EXPECT_THROW(layer_norm(x, x, x, kLayerEps, 1, 0, out, out, out), std::invalid_argument);
    EXPECT_THROW(layer_norm(x, x, x, -1.0, 1, 4, out, out, out), std::invalid_argument);
    EXPECT_THROW(layer_norm(x, x, x, std::nan(""), 1, 4, out, out, out), std::invalid_argument);
    EXPECT_THROW(layer_norm_recompute(x, x, x, x, x, 1, 0, out), std::invalid_argument);
    EXPECT_THROW(layer_norm_backward(x, x, x, x, x, nullptr, -2, 4, out), std::invalid_argument);
    EXPECT_NO_THROW(layer_norm(nullptr, x, nullptr, kLayerEps, 0, 4, nullptr, nullptr, nullptr));
}

INSTANTIATE_TEST_SUITE_P(Paths, LayerNorm, testing::ValuesIn(supported_sets()), set_name);

TEST(LayerNormPaths, GiveTheSameBits) {
    for (int64_t size : row_sizes()) {
        for (uint32_t seed : {1u, 2u}) {
            const bool wild = seed == 2;
            const std::vector<float> x = wild ? wild_values(2 * size, 5) : gaussian(2 * size, 5);
            const std::vector<float> dy = wild ? wild_values(2 * size, 6) : gaussian(2 * size, 6);
            const std::vector<float> weight = gaussian(size, 7), bias = gaussian(size, 8);
            expect_same_bits_on_every_path([&] {
                const LayerNormed found = layer(x, weight, wild ? bias : std::vector<float>{});
                return joined(joined(joined(found.y, found.mean), found.inverse),
                              layer_gradient(dy, x, weight, found, dy));
            });
        }
    }
}

}  // namespace
}  // namespace qlora::kernels::cpu
