#include <cmath>

#include "kernels/elementwise_rows.h"

namespace qlora::kernels::cpu {
namespace {

/// The kernels' own exponential: probabilities for a logsumexp of 0.
std::vector<float> exp_of(std::vector<float> x) {
    std::vector<float> dp(x.size());
    const float logsumexp = 0.0f, delta = 0.0f;
    const int64_t n = static_cast<int64_t>(x.size());
    attention_softmax_backward(x.data(), dp.data(), 1, n, n, {1.0f}, {n, 0}, &logsumexp, 1, &delta, 1);
    return x;
}

/// Distance in units of the last place of the exact value; 2^-149 below the normal numbers.
double ulps(float found, double exact) {
    int exponent = 0;
    std::frexp(exact, &exponent);
    return std::abs(double{found} - exact) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

/// Every 509th float of both signs.
std::vector<float> many_floats() {
    std::vector<float> values;
    for (uint32_t bits = 0; bits < kFloatInfinityBits; bits += 509) {
        const float value = float_from_bits(bits);
        if (value > 1e-10f && value < 300.0f) values.insert(values.end(), {value, -value});
    }
    return values;
}

class Exponential : public OnEveryPath {};

TEST_P(Exponential, IsWithinOneUlpOverTheWholeRange) {
    const std::vector<float> x = many_floats(), found = exp_of(x);
    const double too_large = 0x1.ffffffp127;  // rounds to infinity
    for (size_t i = 0; i < x.size(); ++i) {
        const double exact = std::exp(double{x[i]});
        if (exact >= too_large) {
            ASSERT_EQ(found[i], kInfinity) << x[i];
        } else {
            // Every float was compared once: 0.991 at most, of which the last addition is 0.5.
            ASSERT_LT(ulps(found[i], exact), 1.0) << x[i];
        }
    }
}

TEST_P(Exponential, LimitsAreExact) {
    EXPECT_EQ(exp_of({0.0f, -0.0f, 1e-45f, -1e-45f, 1e-10f}), std::vector<float>(5, 1.0f));
    EXPECT_EQ(exp_of({88.73f, 89.0f, 128.0f, 1e4f, 3e38f, kInfinity}), std::vector<float>(6, kInfinity));
    EXPECT_EQ(exp_of({-104.0f, -105.0f, -128.0f, -1e4f, -3e38f, -kInfinity}), std::vector<float>(6, 0.0f));
    EXPECT_EQ(exp_of({-103.9f})[0], 0x1p-149f);
    // NaN with every kind of payload.
    for (uint32_t bits : {0x7FC00000u, 0xFFC00000u, 0x7F800001u, 0x7FFFFFFFu, 0xFFFFFFFFu, 0x7FC001FFu}) {
        EXPECT_TRUE(std::isnan(exp_of({float_from_bits(bits)})[0])) << bits;
    }
}

TEST_P(Exponential, OfAValueDoesNotDependOnItsPlace) {
    const std::vector<float> x = gaussian(41, 1, 30.0f), row = exp_of(x);
    for (size_t begin = 0; begin < x.size(); ++begin) {
        EXPECT_EQ(exp_of(part(x, static_cast<int64_t>(begin), static_cast<int64_t>(x.size() - begin))),
                  part(row, static_cast<int64_t>(begin), static_cast<int64_t>(x.size() - begin)));
    }
}

INSTANTIATE_TEST_SUITE_P(Paths, Exponential, testing::ValuesIn(supported_sets()), set_name);

TEST(ExponentialPaths, GiveTheSameBits) {
    const std::vector<float> x = many_floats();
    expect_same_bits_on_every_path([&] { return exp_of(x); });
}

}  // namespace
}  // namespace qlora::kernels::cpu
