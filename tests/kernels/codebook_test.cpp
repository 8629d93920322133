#include "qlora/kernels/codebook.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "qlora/kernels/block_layout.h"

namespace qlora::kernels {
namespace {

// bitsandbytes' decision tree in decimal, written apart from the table so that the two check each other.
// Rounded to fp32 by way of double they are the midpoints; its CUDA source reads the digits straight as fp32,
// which puts four of them (after codes 0, 8, 12 and 14) one ulp away: there, and only for x exactly at that
// value, a GPU's code differs by one.
constexpr double kListedThresholds[15] = {-0.8480964004993439,   -0.6106329262256622,  -0.4599952697753906,
                                          -0.33967943489551544,  -0.23460740596055984, -0.13791173323988914,
                                          -0.045525018125772476, 0.03979014977812767,  0.1202552504837513,
                                          0.2035212516784668,    0.2920137718319893,   0.3893125355243683,
                                          0.5016634166240692,    0.6427869200706482,   0.8614784181118011};

constexpr float kListedValues[16] = {-1.0f,
                                     -0.6961928009986877f,
                                     -0.5250730514526367f,
                                     -0.39491748809814453f,
                                     -0.28444138169288635f,
                                     -0.18477343022823334f,
                                     -0.09105003625154495f,
                                     0.0f,
                                     0.07958029955625534f,
                                     0.16093020141124725f,
                                     0.24611230194568634f,
                                     0.33791524171829224f,
                                     0.44070982933044434f,
                                     0.5626170039176941f,
                                     0.7229568362236023f,
                                     1.0f};

constexpr bool tables_equal_the_listed_ones() {
    for (int i = 0; i < 16; ++i) {
        if (float_bits(decode_nf4(i)) != float_bits(kListedValues[i])) return false;
    }
    for (int i = 0; i < 15; ++i) {
        if (float_bits(nf4_thresholds().at[i]) != float_bits(static_cast<float>(kListedThresholds[i])))
            return false;
    }
    return true;
}
static_assert(tables_equal_the_listed_ones());

int thresholds_below(float x) {
    int count = 0;
    for (double threshold : kListedThresholds) count += x > static_cast<float>(threshold) ? 1 : 0;
    return count;
}

/// Distance to the chosen value exceeds the least distance by no more than the thresholds' own rounding.
void expect_nearest(float x, int code) {
    double least = std::numeric_limits<double>::infinity();
    for (float value : kListedValues) least = std::min(least, std::fabs(double{x} - value));
    ASSERT_LE(std::fabs(double{x} - kListedValues[code]), least + 0x1p-24) << x;
}

TEST(Codebook, CodesSurviveDecodeAndEncode) {
    for (int code = 0; code < kNf4Codes; ++code) EXPECT_EQ(encode_nf4(decode_nf4(code)), code);
}

TEST(Codebook, TieTakesTheLowerCodeAndOneUlpAboveTheHigher) {
    for (int i = 0; i < 15; ++i) {
        const float tie = static_cast<float>(kListedThresholds[i]);
        EXPECT_EQ(encode_nf4(tie), i);
        EXPECT_EQ(encode_nf4(std::nextafterf(tie, -2.0f)), i);
        EXPECT_EQ(encode_nf4(std::nextafterf(tie, 2.0f)), i + 1);
    }
}

template <class ToFloat>
void check_every_16_bit_input(ToFloat to_float) {
    for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
        const float x = to_float(static_cast<uint16_t>(bits));
        const int code = encode_nf4(x);
        if (std::isnan(x)) {
            ASSERT_EQ(code, kNf4ZeroCode);
            continue;
        }
        ASSERT_EQ(code, thresholds_below(x)) << x;
        if (std::isfinite(x)) expect_nearest(x, code);
        if (std::isinf(x)) {
            ASSERT_EQ(code, x > 0 ? 15 : 0);
        }
    }
}

TEST(Codebook, EveryHalfInputGivesTheNearestCode) {
    check_every_16_bit_input(f16_to_float);
}
TEST(Codebook, EveryBfloat16InputGivesTheNearestCode) {
    check_every_16_bit_input(bf16_to_float);
}

TEST(Codebook, EncodingIsMonotone) {
    // Every bfloat16 in ascending order: the negative ones from -infinity up, then the positive ones.
    int last = 0;
    for (int bits = 0xff80; bits >= 0x8000; --bits) {
        const int code = encode_nf4(bf16_to_float(static_cast<uint16_t>(bits)));
        ASSERT_GE(code, last);
        last = code;
    }
    ASSERT_EQ(last, kNf4ZeroCode);
    for (int bits = 0; bits <= 0x7f80; ++bits) {
        const int code = encode_nf4(bf16_to_float(static_cast<uint16_t>(bits)));
        ASSERT_GE(code, last);
        last = code;
    }
    EXPECT_EQ(last, 15);
}

TEST(Codebook, BothZerosGiveTheZeroCode) {
    EXPECT_EQ(encode_nf4(0.0f), kNf4ZeroCode);
    EXPECT_EQ(encode_nf4(-0.0f), kNf4ZeroCode);
    EXPECT_EQ(float_bits(decode_nf4(kNf4ZeroCode)), 0u);
}

TEST(BlockLayout, CountsRoundUp) {
    EXPECT_EQ(block_count(0, 64), 0);
    EXPECT_EQ(block_count(1, 64), 1);
    EXPECT_EQ(block_count(64, 64), 1);
    EXPECT_EQ(block_count(65, 64), 2);
    EXPECT_EQ(packed_bytes(0), 0);
    EXPECT_EQ(packed_bytes(7), 4);
    EXPECT_EQ(packed_bytes(8), 4);
    EXPECT_EQ(nested_block_count(256), 1);
    EXPECT_EQ(nested_block_count(257), 2);
    EXPECT_EQ(packed_bytes(std::numeric_limits<int64_t>::max()), int64_t{1} << 62);
    EXPECT_EQ(block_count(std::numeric_limits<int64_t>::max(), 64), int64_t{1} << 57);
}

TEST(BlockLayout, FirstElementIsTheHighNibble) {
    EXPECT_EQ(pack_pair(0xa, 0x3), 0xa3);
    const uint8_t packed[2] = {0xa3, 0x5c};
    EXPECT_EQ(code_at(packed, 0), 0xa);
    EXPECT_EQ(code_at(packed, 1), 0x3);
    EXPECT_EQ(code_at(packed, 2), 0x5);
    EXPECT_EQ(code_at(packed, 3), 0xc);
}

TEST(BlockLayout, BlocksizesArePowersOfTwoFrom32To4096) {
    int valid = 0;
    for (int size = -1; size <= 9000; ++size) valid += is_valid_blocksize(size) ? 1 : 0;
    EXPECT_EQ(valid, 8);
    for (int size = 32; size <= 4096; size *= 2) EXPECT_TRUE(is_valid_blocksize(size));
}

}  // namespace
}  // namespace qlora::kernels
