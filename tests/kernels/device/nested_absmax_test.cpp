#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/device/device.h"
#include "kernels/test_values.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/dynamic_code.h"

namespace qlora::kernels {
namespace {

class DeviceQuantizeAbsmax : public OnDevice {};

struct Nested {
    std::vector<uint8_t> codes;
    std::vector<float> nested_absmax;
    float offset = -7.0f;
    bool operator==(const Nested&) const = default;
};

Nested empty_result(const std::vector<float>& absmax) {
    const int64_t blocks = static_cast<int64_t>(absmax.size());
    return {std::vector<uint8_t>(absmax.size(), 0xee),
            std::vector<float>(static_cast<std::size_t>(nested_block_count(blocks)), -7.0f)};
}

Nested on_cpu(const std::vector<float>& absmax) {
    Nested result = empty_result(absmax);
    result.offset = cpu::quantize_absmax(absmax.data(), static_cast<int64_t>(absmax.size()),
                                         result.codes.data(), result.nested_absmax.data());
    return result;
}

/// The scales start `shift` elements, the codes as many bytes past an aligned place.
Nested on_device(const std::vector<float>& absmax, int shift = 0) {
    const Nested result = empty_result(absmax);
    const DeviceArray<float> scales(absmax, Access::kInput, static_cast<std::size_t>(4 * shift));
    const DeviceArray<uint8_t> codes(result.codes, Access::kOutput, static_cast<std::size_t>(shift));
    const DeviceArray<float> nested_absmax(result.nested_absmax, Access::kOutput);
    const DeviceArray<float> offset(std::vector<float>{-7.0f}, Access::kOutput);
    device::quantize_absmax(scales.data(), static_cast<int64_t>(absmax.size()), codes.data(),
                            nested_absmax.data(), offset.data(), nullptr);
    return {codes.download(), nested_absmax.download(), offset.download()[0]};
}

std::vector<float> scales(int64_t n, uint32_t seed) {
    std::vector<float> values = gaussian(n, seed, 0.01f);
    for (float& value : values) value = std::fabs(value) + 0.02f;
    return values;
}

TEST_F(DeviceQuantizeAbsmax, EveryLengthGivesTheBytesOfTheCpu) {
    for (int64_t n = 1; n <= 600; n += n < 40 || n % 256 > 250 || n % 256 < 5 ? 1 : 5) {
        const std::vector<float> absmax = scales(n, static_cast<uint32_t>(n));
        const Nested expected = on_cpu(absmax);
        with_some_schedule(n, [&] { ASSERT_EQ(on_device(absmax, static_cast<int>(n % 3)), expected) << n; });
    }
}

TEST_F(DeviceQuantizeAbsmax, SeveralNestedBlocksGiveTheBytesOfTheCpuUnderEverySchedule) {
    for (int64_t n : {255, 256, 257, 1023, 1024, 1029}) {
        const std::vector<float> absmax = scales(n, static_cast<uint32_t>(n));
        const Nested expected = on_cpu(absmax);
        for_each_schedule([&] { ASSERT_EQ(on_device(absmax), expected) << n; });
    }
}

TEST_F(DeviceQuantizeAbsmax, MoreNestedBlocksThanTheGridHasGiveTheBytesOfTheCpu) {
    // A grid of at most 256 takes 259 nested blocks: three CUDA blocks go round twice.
    const std::vector<float> absmax = scales(258 * 256 + 9, 5);
    const Nested expected = on_cpu(absmax);
    with_some_schedule(4, [&] { ASSERT_EQ(on_device(absmax), expected); });
}

TEST_F(DeviceQuantizeAbsmax, TheMeanIsSummedInTheOrderOfTheCpu) {
    // Scales of widely differing size: another order of the sum rounds to another offset.
    std::vector<float> absmax = scales(4000, 8);
    for (std::size_t i = 0; i < absmax.size(); ++i) {
        absmax[i] = std::ldexp(absmax[i], static_cast<int>(i * 2654435761u >> 7 & 63) - 20);
    }
    const Nested expected = on_cpu(absmax);
    for_each_schedule([&] { ASSERT_EQ(on_device(absmax).offset, expected.offset); });
}

TEST_F(DeviceQuantizeAbsmax, TheLargestDifferenceCountsWhereverItIs) {
    for (std::size_t place = 0; place < 256; place += 3) {
        for (float outlier : {5.0f, 0.0f}) {
            std::vector<float> absmax(256, 0.5f);
            absmax[place] = outlier;
            ASSERT_EQ(on_device(absmax), on_cpu(absmax)) << place;
        }
    }
}

TEST_F(DeviceQuantizeAbsmax, TiesOfTheDynamicMapFollowTheSearch) {
    // Pairs around 0 keep the mean at 0; the largest is 1, so the scaled values are the midpoints themselves.
    std::vector<float> absmax;
    for (int i = 0; i < 127; ++i) {
        const float tie = (kSignedDynamicMap.value[i] + kSignedDynamicMap.value[i + 1]) * 0.5f;
        absmax.push_back(tie);
        absmax.push_back(-tie);
    }
    absmax.push_back(1.0f);
    absmax.push_back(-1.0f);
    const Nested found = on_device(absmax);
    EXPECT_EQ(found.offset, 0.0f);
    EXPECT_EQ(found, on_cpu(absmax));
}

TEST_F(DeviceQuantizeAbsmax, EqualAndExtremeScalesGiveTheBytesOfTheCpu) {
    const float largest = std::numeric_limits<float>::max();
    for (int n : {1, 3, 256, 300}) {
        const std::size_t count = static_cast<std::size_t>(n);
        for (float value : {0.0f, 0.0437f, 1e-45f, 1e-38f, largest}) {
            const std::vector<float> equal(count, value);
            ASSERT_EQ(on_device(equal), on_cpu(equal)) << n << " " << value;
            std::vector<float> mixed = equal;
            mixed[count / 2] = 0x1p-140f;
            ASSERT_EQ(on_device(mixed), on_cpu(mixed)) << n << " " << value;
        }
    }
}

TEST(DeviceQuantizeAbsmaxArguments, ImpossibleOnesThrow) {
    alignas(4) uint8_t bytes[16] = {};
    float* const floats = reinterpret_cast<float*>(bytes);
    float* const misaligned = reinterpret_cast<float*>(bytes + 1);
    EXPECT_THROW(device::quantize_absmax(floats, 0, bytes, floats, floats, nullptr), std::invalid_argument);
    EXPECT_THROW(device::quantize_absmax(floats, -1, bytes, floats, floats, nullptr), std::invalid_argument);
    EXPECT_THROW(device::quantize_absmax(misaligned, 1, bytes, floats, floats, nullptr),
                 std::invalid_argument);
}

}  // namespace
}  // namespace qlora::kernels
