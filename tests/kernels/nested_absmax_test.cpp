#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/instruction_sets.h"
#include "kernels/test_values.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/dynamic_code.h"
#include "qlora/kernels/kernels.h"

namespace qlora::kernels::cpu {
namespace {

std::vector<float> scales(int64_t n, uint32_t seed) {
    std::vector<float> values = gaussian(n, seed, 0.01f);
    for (float& value : values) value = std::fabs(value) + 0.02f;
    return values;
}

struct Nested {
    std::vector<uint8_t> codes;
    std::vector<float> nested_absmax;
    float offset;
    bool operator==(const Nested&) const = default;
};

Nested reference(const std::vector<float>& absmax, float offset) {
    Nested result{{}, {}, offset};
    for (size_t begin = 0; begin < absmax.size(); begin += 256) {
        const size_t end = std::min(absmax.size(), begin + 256);
        float largest = 0.0f;
        for (size_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(absmax[i] - offset));
        result.nested_absmax.push_back(largest);
        for (size_t i = begin; i < end; ++i) {
            const float x = (absmax[i] - offset) * (1.0f / largest);
            result.codes.push_back(static_cast<uint8_t>(encode_dynamic(kSignedDynamicMap.value, x)));
        }
    }
    return result;
}

Nested quantize(const std::vector<float>& absmax) {
    const int64_t blocks = static_cast<int64_t>(absmax.size());
    Nested result;
    result.codes.resize(absmax.size());
    result.nested_absmax.resize(static_cast<size_t>(nested_block_count(blocks)));
    result.offset = quantize_absmax(absmax.data(), blocks, result.codes.data(), result.nested_absmax.data());
    return result;
}

class NestedAbsmax : public testing::TestWithParam<InstructionSet> {
  protected:
    UseInstructionSet use_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Paths, NestedAbsmax, testing::ValuesIn(supported_sets()), set_name);

TEST_P(NestedAbsmax, EveryLengthFollowsTheRule) {
    for (int64_t n = 1; n <= 600; ++n) {
        const std::vector<float> absmax = scales(n, static_cast<uint32_t>(n));
        const Nested found = quantize(absmax);
        ASSERT_EQ(found, reference(absmax, absmax_offset(absmax.data(), n))) << n;
        std::vector<float> whole(absmax.size());
        const AbsmaxView view{nullptr, found.codes.data(), found.nested_absmax.data(), found.offset};
        dequantize_absmax(view, 0, n, whole.data());
        for (size_t i = 0; i < absmax.size(); ++i) {
            const float product = kSignedDynamicMap.value[found.codes[i]] * found.nested_absmax[i / 256];
            ASSERT_EQ(whole[i], product + found.offset);
        }
        const int64_t from = n / 3;
        std::vector<float> part(absmax.size());
        dequantize_absmax(view, from, n, part.data());
        ASSERT_TRUE(std::equal(whole.begin() + from, whole.end(), part.begin()));
    }
}

TEST_P(NestedAbsmax, TiesOfTheDynamicMapFollowTheSearch) {
    // With offset 0 and a largest scale of 1 the scaled values are the midpoints themselves.
    std::vector<float> absmax;
    for (int i = 0; i < 255; ++i)
        absmax.push_back((kSignedDynamicMap.value[i] + kSignedDynamicMap.value[i + 1]) * 0.5f);
    absmax.push_back(1.0f);
    std::vector<uint8_t> codes(256);
    float nested_absmax;
    quantize_absmax(QuantizeAbsmaxParams{absmax.data(), 256, 0.0f, codes.data(), &nested_absmax}, 0, 1);
    EXPECT_EQ(nested_absmax, 1.0f);
    for (int i = 0; i < 255; ++i) EXPECT_EQ(codes[static_cast<size_t>(i)], i % 2 == 0 ? i : i + 1) << i;
}

TEST_P(NestedAbsmax, EqualScalesComeBackExactly) {
    for (int64_t n : {1, 3, 256, 300}) {
        const std::vector<float> absmax(static_cast<size_t>(n), 0.0437f);
        const Nested found = quantize(absmax);
        EXPECT_EQ(found.offset, 0.0437f);
        for (uint8_t code : found.codes) EXPECT_EQ(code, 127);
        std::vector<float> back(absmax.size());
        dequantize_absmax({nullptr, found.codes.data(), found.nested_absmax.data(), found.offset}, 0, n,
                          back.data());
        EXPECT_EQ(back, absmax);
    }
}

TEST_P(NestedAbsmax, RangesGiveTheWhole) {
    const std::vector<float> absmax = scales(256 * 5 + 9, 77);
    const Nested whole = quantize(absmax);
    Nested parts{std::vector<uint8_t>(absmax.size()), std::vector<float>(6), whole.offset};
    const QuantizeAbsmaxParams params{absmax.data(), static_cast<int64_t>(absmax.size()), whole.offset,
                                      parts.codes.data(), parts.nested_absmax.data()};
    for (int64_t begin : {4, 0, 2}) quantize_absmax(params, begin, begin + 2);
    EXPECT_EQ(parts, whole);
    EXPECT_THROW(quantize_absmax(params, 0, 7), std::invalid_argument);
}

TEST_P(NestedAbsmax, PlainScalesAreCopied) {
    const std::vector<float> absmax = scales(40, 2);
    std::vector<float> out(30);
    dequantize_absmax({absmax.data(), nullptr, nullptr, 0.0f}, 5, 35, out.data());
    EXPECT_TRUE(std::equal(out.begin(), out.end(), absmax.begin() + 5));
}

TEST(AbsmaxOffset, IsTheMeanRoundedOnce) {
    for (int64_t n : {1, 2, 255, 256, 257, 511, 5000, 100003}) {
        const std::vector<float> absmax = scales(n, static_cast<uint32_t>(n));
        long double sum = 0;
        for (float value : absmax) sum += value;
        EXPECT_EQ(absmax_offset(absmax.data(), n), static_cast<float>(sum / static_cast<long double>(n)))
            << n;
    }
    EXPECT_EQ(absmax_offset(nullptr, 0), 0.0f);
}

}  // namespace
}  // namespace qlora::kernels::cpu
