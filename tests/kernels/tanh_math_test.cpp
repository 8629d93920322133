#include "qlora/kernels/tanh_math.h"

#include "kernels/elementwise_rows.h"

namespace qlora::kernels {
namespace {

using cpu::bits_of;
using cpu::kInfinity;
using cpu::kNan;

TEST(TanhMath, IsWithinFourRoundingsOverTheWholeRange) {
    for (uint32_t bits = 0; float_from_bits(bits) < 20.0f; bits += 509) {
        const float x = float_from_bits(bits);
        const double exact = static_cast<double>(std::tanh(static_cast<long double>(x)));
        ASSERT_NEAR(tanh_lanes<OneLane>(x), exact, 4 * cpu::kRounding * exact + 0x1p-149) << x;
        ASSERT_EQ(tanh_lanes<OneLane>(-x), -tanh_lanes<OneLane>(x)) << x;
    }
}

TEST(TanhMath, LimitsAreExact) {
    const auto of = [](float x) { return tanh_lanes<OneLane>(x); };
    EXPECT_EQ(bits_of({of(0.0f), of(-0.0f), of(1e-45f), of(-1e-39f)}),
              bits_of({0.0f, -0.0f, 1e-45f, -1e-39f}));
    for (float x : {10.0f, 1e4f, 3e38f, kInfinity})
        EXPECT_EQ(bits_of({of(x), of(-x)}), bits_of({1.0f, -1.0f}));
    EXPECT_TRUE(std::isnan(of(kNan)));
}

}  // namespace
}  // namespace qlora::kernels
