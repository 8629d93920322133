#include <stdexcept>

#include "kernels/elementwise_rows.h"

namespace qlora::kernels::cpu {
namespace {

constexpr LogitCurve kCurves[] = {{0.0625f, 0.0f}, {1.0f, 30.0f}, {-0.7f, 5.0f}, {1.0f, 0.0f}};

struct Curved {
    std::vector<float> logits, tanhs;
};

Curved forward(const std::vector<float>& logits, LogitCurve curve, size_t shift = 0) {
    const int64_t n = static_cast<int64_t>(logits.size());
    Guarded values(logits, shift), tanhs(n, shift), alone(logits, shift);
    curve_logits(values.data(), n, curve, tanhs.data());
    curve_logits(alone.data(), n, curve, nullptr);
    EXPECT_TRUE(values.intact() && tanhs.intact() && alone.intact());
    EXPECT_EQ(bits_of(values.values()), bits_of(alone.values()));
    return {values.values(), tanhs.values()};
}

std::vector<float> backward(const std::vector<float>& gradients, const Curved& forward, LogitCurve curve,
                            size_t shift = 0) {
    Guarded values(gradients, shift);
    std::vector<float> tanhs = forward.tanhs;
    curve_gradients(values.data(), curve.softcap == 0.0f ? nullptr : tanhs.data(),
                    static_cast<int64_t>(gradients.size()), curve);
    EXPECT_TRUE(values.intact());
    return values.values();
}

class LogitCurves : public OnEveryPath {};

TEST_P(LogitCurves, FollowTheFormulaInDouble) {
    for (const LogitCurve& curve : kCurves) {
        for (int64_t size : row_sizes()) {
            const std::vector<float> logits = gaussian(size, 1, 8.0f), g = gaussian(size, 2);
            const size_t shift = static_cast<size_t>(size % 8);
            const Curved found = forward(logits, curve, shift);
            const std::vector<float> gradient = backward(g, found, curve, shift);
            for (size_t i = 0; i < logits.size(); ++i) {
                const double scaled = double{curve.scale} * logits[i], cap = curve.softcap;
                const double tanh = cap == 0.0 ? 0.0 : std::tanh(scaled / cap);
                const double exact = cap == 0.0 ? scaled : cap * tanh;
                // Scale, quotient (whose error tanh never enlarges), tanh within 4, product.
                ASSERT_NEAR(found.logits[i], exact, 7 * kRounding * std::abs(exact)) << curve.softcap;
                // 1 - tanh^2 is as far off as the tanh, of at most 1, twice; then four products.
                const double slope = curve.scale * (1.0 - tanh * tanh);
                ASSERT_NEAR(gradient[i], g[i] * slope,
                            std::abs(double{g[i]} * curve.scale) * kRounding * (cap == 0.0 ? 1 : 20))
                    << curve.softcap;
            }
        }
    }
}

TEST_P(LogitCurves, NoCurveChangesNothing) {
    const std::vector<float> logits = wild_values(100, 1);
    EXPECT_TRUE(LogitCurve{}.is_identity());
    EXPECT_EQ(bits_of(forward(logits, {}).logits), bits_of(logits));
    EXPECT_EQ(bits_of(backward(logits, {}, {})), bits_of(logits));
}

TEST_P(LogitCurves, InfinityGivesTheCapAndNanPasses) {
    EXPECT_EQ(forward({kInfinity, -kInfinity, 3e38f, 0.0f}, {1.0f, 30.0f}).logits,
              (std::vector<float>{30.0f, -30.0f, 30.0f, 0.0f}));
    EXPECT_TRUE(std::isnan(forward({kNan}, {1.0f, 30.0f}).logits[0]));
}

TEST_P(LogitCurves, ImpossibleArgumentsThrow) {
    float x[4] = {};
    EXPECT_THROW(curve_logits(x, -1, {}, nullptr), std::invalid_argument);
    EXPECT_THROW(curve_gradients(x, x, -1, {}), std::invalid_argument);
    EXPECT_THROW(curve_gradients(x, nullptr, 1, {1.0f, 30.0f}), std::invalid_argument);
}

INSTANTIATE_TEST_SUITE_P(Paths, LogitCurves, testing::ValuesIn(supported_sets()), set_name);

TEST(LogitCurvePaths, GiveTheSameBits) {
    for (const LogitCurve& curve : kCurves) {
        for (int64_t size : row_sizes()) {
            for (const std::vector<float>& logits : {gaussian(size, 1, 8.0f), wild_values(size, 2)}) {
                expect_same_bits_on_every_path([&] {
                    const Curved found = forward(logits, curve);
                    return joined(found.logits, backward(wild_values(size, 3), found, curve));
                });
            }
        }
    }
}

}  // namespace
}  // namespace qlora::kernels::cpu
