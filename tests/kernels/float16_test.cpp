#include "qlora/kernels/float16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <initializer_list>

namespace qlora::kernels {
namespace {

/// Value of a 16-bit float with `mantissa_bits` bits of fraction, by the definition of the format.
double value_of(uint16_t bits, int mantissa_bits, int bias) {
    const int exponent_bits = 15 - mantissa_bits;
    const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                      : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
    return bits & 0x8000 ? -magnitude : magnitude;
}

/// Both roundings are checked at every representable value, at every midpoint of neighbours, and one ulp
/// beside it.
template <class ToFloat, class FromFloat>
void check_rounding(int mantissa_bits, int bias, uint16_t infinity, ToFloat to_float, FromFloat from_float) {
    for (uint16_t bits = 0; bits < infinity; ++bits) {
        const uint16_t next = static_cast<uint16_t>(bits + 1);
        const double value = value_of(bits, mantissa_bits, bias);
        ASSERT_EQ(static_cast<double>(to_float(bits)), value) << bits;
        ASSERT_EQ(from_float(static_cast<float>(value)), bits);
        // The midpoint above the largest finite value uses the value the next exponent would give.
        const float middle = static_cast<float>((value + value_of(next, mantissa_bits, bias)) / 2);
        const uint16_t even = bits % 2 == 0 ? bits : next;
        ASSERT_EQ(from_float(middle), even) << bits;
        ASSERT_EQ(from_float(std::nextafterf(middle, 0.0f)), bits);
        ASSERT_EQ(from_float(std::nextafterf(middle, INFINITY)), next);
        ASSERT_EQ(from_float(-middle), even | 0x8000);
        ASSERT_EQ(float_bits(to_float(bits | 0x8000)), float_bits(to_float(bits)) | kFloatSignBit);
    }
}

TEST(Float16, HalfRoundsToNearestEvenEverywhere) {
    check_rounding(10, 15, 0x7c00, f16_to_float, float_to_f16);
}

TEST(Float16, Bfloat16RoundsToNearestEvenEverywhere) {
    check_rounding(7, 127, 0x7f80, bf16_to_float, float_to_bf16);
}

TEST(Float16, InfinityStaysInfinity) {
    EXPECT_EQ(float_to_f16(INFINITY), 0x7c00);
    EXPECT_EQ(float_to_f16(-INFINITY), 0xfc00);
    EXPECT_EQ(float_to_f16(65519.996f), 0x7bff);
    EXPECT_EQ(float_to_f16(3e38f), 0x7c00);
    EXPECT_EQ(float_to_bf16(-INFINITY), 0xff80);
    EXPECT_EQ(f16_to_float(0x7c00), INFINITY);
    EXPECT_EQ(bf16_to_float(0xff80), -INFINITY);
}

TEST(Float16, EveryNanStaysNan) {
    for (uint32_t low : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0x7f80ffffu, 0x7fbfffffu}) {
        for (uint32_t sign : {0u, kFloatSignBit}) {
            const float nan = float_from_bits(low | sign);
            EXPECT_EQ(float_to_bf16(nan), 0x7fc0);
            EXPECT_EQ(float_to_f16(nan), 0x7e00 | (sign >> 16));
        }
    }
    for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
        const uint16_t half = static_cast<uint16_t>(bits);
        EXPECT_EQ(std::isnan(f16_to_float(half)), (bits & 0x7fff) > 0x7c00);
        EXPECT_EQ(std::isnan(bf16_to_float(half)), (bits & 0x7fff) > 0x7f80);
    }
}

TEST(Float16, MagnitudeBitsOrderFiniteValues) {
    EXPECT_FALSE(is_finite(INFINITY));
    EXPECT_FALSE(is_finite(NAN));
    EXPECT_FALSE(is_finite(-NAN));
    EXPECT_TRUE(is_finite(-3.4028235e38f));
    EXPECT_LT(float_magnitude_bits(-1.0f), float_magnitude_bits(1.0000001f));
}

}  // namespace
}  // namespace qlora::kernels
