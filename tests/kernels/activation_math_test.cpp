#include "qlora/kernels/activation_math.h"

#include "kernels/elementwise_rows.h"
#include "kernels/exact_activation.h"

namespace qlora::kernels {
namespace {

using cpu::bits_of;
using cpu::kInfinity;
using cpu::kNan;
using cpu::kRounding;

constexpr Activation kKinds[] = {Activation::kSilu, Activation::kGeluTanh, Activation::kGelu};

Activated<OneLane> of(Activation kind, float x) {
    Activated<OneLane> out = {};
    with_activation_form(kind, false, [&](auto form) { out = activated<decltype(form)::kKind, OneLane>(x); });
    return out;
}

/// Every 4093rd float of both signs up to 300, denormal ones too.
template <class Visit>
void for_many_floats(const Visit& visit) {
    for (uint32_t bits = 0; float_from_bits(bits) < 300.0f; bits += 4093) {
        visit(float_from_bits(bits));
        visit(-float_from_bits(bits));
    }
}

TEST(ActivationMath, FollowsTheFormulasInExtendedPrecision) {
    for (Activation kind : kKinds) {
        for_many_floats([&](float x) {
            const ExactActivation exact(kind, x);
            const Activated<OneLane> found = of(kind, x);
            // Small results are multiples of 2^-149, as e^x is before its products with x.
            const double least = 0x1p-149 * (2.0 + std::abs(x));
            ASSERT_NEAR(found.value, exact.value,
                        kRounding * exact.value_error * std::abs(exact.value) + least)
                << x << " of kind " << static_cast<int>(kind);
            ASSERT_NEAR(found.slope, exact.slope,
                        kRounding * exact.slope_error * exact.slope_terms + least * (1.0 + x * x))
                << x << " of kind " << static_cast<int>(kind);
        });
    }
}

TEST(ActivationMath, GelusAreWithinThreeRoundingsOfTheLargerOfTheirArgumentAndOne) {
    for (Activation kind : {Activation::kGeluTanh, Activation::kGelu}) {
        for_many_floats([&](float x) {
            const double error = std::abs(of(kind, x).value - ExactActivation(kind, x).value);
            ASSERT_LE(error, 3 * kRounding * std::max(1.0f, std::abs(x))) << x;
        });
    }
}

TEST(ActivationMath, LimitsAreExact) {
    for (Activation kind : kKinds) {
        const auto expect = [&](float x, float value, float slope) {
            const Activated<OneLane> found = of(kind, x);
            EXPECT_EQ(bits_of({found.value, found.slope}), bits_of({value, slope}))
                << x << " of kind " << static_cast<int>(kind);
        };
        for (float x : {120.0f, 1e4f, 57344.0f, 1e19f, 1e30f, 3e38f, kInfinity}) {
            expect(x, x, 1.0f);
            expect(-x, -0.0f, kind == Activation::kGelu ? 0.0f : -0.0f);
        }
        expect(0.0f, 0.0f, 0.5f);
        expect(-0.0f, -0.0f, 0.5f);
        for (uint32_t bits : {0x7FC00000u, 0xFFC00000u, 0x7F800001u, 0xFFFFFFFFu}) {
            expect(float_from_bits(bits), kNan, kNan);
        }
    }
}

TEST(ActivationMath, AKindThatDoesNotExistIsNoForm) {
    EXPECT_FALSE(with_activation_form(static_cast<Activation>(9), true, [](auto) { FAIL(); }));
}

}  // namespace
}  // namespace qlora::kernels
