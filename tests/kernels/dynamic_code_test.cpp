#include "qlora/kernels/dynamic_code.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

namespace qlora::kernels {
namespace {

TEST(DynamicCode, MapsHaveTheirLandmarks) {
    const float* map = kSignedDynamicMap.value;
    EXPECT_FLOAT_EQ(map[0], -0.992968738f);
    EXPECT_EQ(map[127], 0.0f);
    EXPECT_EQ(map[255], 1.0f);
    EXPECT_FLOAT_EQ(map[126], -5.5e-7f);
    EXPECT_FLOAT_EQ(map[128], 5.5e-7f);
    EXPECT_FLOAT_EQ(map[129], 3.25e-6f);
    EXPECT_EQ(kUnsignedDynamicMap.value[0], 0.0f);
    EXPECT_EQ(kUnsignedDynamicMap.value[255], 1.0f);
}

struct NamedMap {
    const char* name;
    const float* value;
};
constexpr NamedMap kMaps[] = {{"signed", kSignedDynamicMap.value}, {"unsigned", kUnsignedDynamicMap.value}};

TEST(DynamicCode, MapsAscendStrictlySoCodesSurviveDecodeAndEncode) {
    for (const NamedMap& map : kMaps) {
        for (int code = 0; code < 256; ++code) {
            if (code > 0) {
                ASSERT_LT(map.value[code - 1], map.value[code]) << map.name;
            }
            ASSERT_EQ(encode_dynamic(map.value, map.value[code]), code) << map.name;
        }
    }
}

/// No other entry is nearer; the fp32 midpoint may be off by half an ulp, so that much is allowed.
void expect_nearest(const float* map, float x) {
    const int code = encode_dynamic(map, x);
    double least = std::numeric_limits<double>::infinity();
    for (int i = 0; i < 256; ++i) least = std::min(least, std::fabs(double{x} - map[i]));
    ASSERT_LE(std::fabs(double{x} - map[code]), least + std::fabs(x) * 0x1p-23) << x;
}

TEST(DynamicCode, EveryBfloat16AndHalfGivesTheNearestEntry) {
    for (const NamedMap& map : kMaps) {
        for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
            for (float x :
                 {bf16_to_float(static_cast<uint16_t>(bits)), f16_to_float(static_cast<uint16_t>(bits))}) {
                if (std::isnan(x)) {
                    ASSERT_EQ(map.value[encode_dynamic(map.value, x)], 0.0f);
                } else if (std::isinf(x)) {
                    ASSERT_EQ(encode_dynamic(map.value, x), x > 0 ? 255 : 0);
                } else {
                    expect_nearest(map.value, x);
                }
            }
        }
    }
}

TEST(DynamicCode, BesideAMidpointTheNearerNeighbourWinsAndATieKeepsOneOfTheTwo) {
    for (const NamedMap& map : kMaps) {
        int lower_ties = 0;
        for (int code = 0; code < 255; ++code) {
            const float middle = (map.value[code] + map.value[code + 1]) * 0.5f;
            ASSERT_EQ(encode_dynamic(map.value, std::nextafterf(middle, -2.0f)), code) << map.name;
            ASSERT_EQ(encode_dynamic(map.value, std::nextafterf(middle, 2.0f)), code + 1) << map.name;
            // The search ends on even entries only, so a tie goes to the even one of the two.
            ASSERT_EQ(encode_dynamic(map.value, middle), code % 2 == 0 ? code : code + 1) << map.name;
            lower_ties += code % 2 == 0 ? 1 : 0;
        }
        EXPECT_EQ(lower_ties, 128);
    }
}

TEST(DynamicCode, ScaleIsDecodedWithTwoRoundings) {
    int differing = 0;
    for (int code = 0; code < 256; ++code) {
        const float nested = 0.1f;
        const float offset = 0.037f;
        const float product = kSignedDynamicMap.value[code] * nested;
        const float expected = product + offset;
        ASSERT_EQ(decode_absmax(kSignedDynamicMap.value, static_cast<uint8_t>(code), nested, offset),
                  expected);
        differing += std::fma(kSignedDynamicMap.value[code], nested, offset) != expected ? 1 : 0;
    }
    EXPECT_GT(differing, 10) << "these inputs cannot tell a fused multiply-add from two roundings";
}

}  // namespace
}  // namespace qlora::kernels
