#include <cmath>
#include <stdexcept>

#include "kernels/device/device.h"
#include "kernels/test_values.h"
#include "qlora/kernels/block_layout.h"

namespace qlora::kernels {
namespace {

class DeviceQuantizeBlockwise : public OnDevice {};

struct Quantized {
    std::vector<uint8_t> packed;
    std::vector<float> absmax;
    int64_t first_non_finite = -1;
    bool operator==(const Quantized&) const = default;
};

Quantized empty_result(int64_t n, int blocksize) {
    return {std::vector<uint8_t>(static_cast<std::size_t>(packed_bytes(n)), 0xee),
            std::vector<float>(static_cast<std::size_t>(block_count(n, blocksize)), -7.0f)};
}

Quantized on_cpu(const std::vector<uint8_t>& input, FloatType type, int64_t n, int blocksize) {
    Quantized result = empty_result(n, blocksize);
    result.first_non_finite = cpu::quantize_blockwise_nf4(
        {input.data(), type, n, blocksize, result.packed.data(), result.absmax.data()});
    return result;
}

/// `shift` elements past an aligned place.
Quantized on_device(const std::vector<uint8_t>& input, FloatType type, int64_t n, int blocksize,
                    int shift = 0) {
    Quantized result = empty_result(n, blocksize);
    const DeviceArray<uint8_t> values(input, Access::kInput,
                                      static_cast<std::size_t>(shift * float_bytes(type)));
    const DeviceArray<uint8_t> packed(result.packed, Access::kOutput, static_cast<std::size_t>(shift));
    const DeviceArray<float> absmax(result.absmax, Access::kOutput);
    const DeviceArray<int64_t> first_non_finite(std::vector<int64_t>{-1}, Access::kOutput);
    device::quantize_blockwise_nf4({values.data(), type, n, blocksize, packed.data(), absmax.data()},
                                   first_non_finite.data(), nullptr);
    return {packed.download(), absmax.download(), first_non_finite.download()[0]};
}

TEST_F(DeviceQuantizeBlockwise, TheRequestedDeviceRuns) {
    const int64_t launches = device_launches();
    on_device(encode_elements({1.0f, 2.0f}, FloatType::kF32), FloatType::kF32, 2, 32);
    if (device_name() == "emulated") {
        EXPECT_EQ(device_launches(), launches + 1);
    } else {
        EXPECT_EQ(device_name(), "cuda");
    }
}

TEST_F(DeviceQuantizeBlockwise, EveryLengthTypeAndMisalignmentGivesTheBytesOfTheCpu) {
    for (FloatType type : kFloatTypes) {
        for (int64_t n = 1; n <= 300; ++n) {
            const std::vector<uint8_t> input = encode_elements(gaussian(n, static_cast<uint32_t>(n)), type);
            for (int blocksize : {32, 64, 128}) {
                const Quantized expected = on_cpu(input, type, n, blocksize);
                with_some_schedule(n + blocksize / 32, [&] {
                    ASSERT_EQ(on_device(input, type, n, blocksize, static_cast<int>(n % 5)), expected)
                        << n << " " << blocksize;
                });
            }
        }
    }
}

TEST_F(DeviceQuantizeBlockwise, EveryBlocksizeGivesTheBytesOfTheCpuUnderEverySchedule) {
    for (int blocksize = kMinBlocksize; blocksize <= kMaxBlocksize; blocksize *= 2) {
        for (int extra : {-33, -1, 0, 1, 17}) {
            // Eight warps a CUDA block: more blocks than one takes.
            const int64_t n = 9 * blocksize + extra;
            const std::vector<uint8_t> input = encode_elements(
                gaussian(n, static_cast<uint32_t>(blocksize + extra), 0.02f), FloatType::kF32);
            const Quantized expected = on_cpu(input, FloatType::kF32, n, blocksize);
            const auto compare = [&] {
                ASSERT_EQ(on_device(input, FloatType::kF32, n, blocksize), expected) << n;
            };
            blocksize <= 256 ? for_each_schedule(compare) : with_some_schedule(extra + 33, compare);
        }
    }
}

TEST_F(DeviceQuantizeBlockwise, EveryFiniteSixteenBitInputGivesTheBytesOfTheCpu) {
    for (FloatType type : {FloatType::kF16, FloatType::kBF16}) {
        std::vector<uint16_t> words;
        for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
            const uint16_t word =
                static_cast<uint16_t>(bits * 40503u);  // odd: every pattern once, well mixed
            const float value = type == FloatType::kF16 ? f16_to_float(word) : bf16_to_float(word);
            if (is_finite(value)) words.push_back(word);
        }
        std::vector<uint8_t> input(2 * words.size());
        std::memcpy(input.data(), words.data(), input.size());
        const int64_t n = static_cast<int64_t>(words.size());
        ASSERT_EQ(on_device(input, type, n, 64), on_cpu(input, type, n, 64));
    }
}

TEST_F(DeviceQuantizeBlockwise, ZeroTinyHugeAndFlatBlocksGiveTheBytesOfTheCpu) {
    for (float largest :
         {0.0f, 0x1p-149f, 0x1p-128f, 0x1.00001p-128f, 1e-38f, 0x1p-126f, 0.37f, 3.4028235e38f}) {
        std::vector<float> values = gaussian(96, 5);
        for (float& value : values) value = std::fmin(std::fmax(value / 4, -1.0f), 1.0f) * largest;
        for (std::size_t i = 64; i < 96; ++i) values[i] = largest;
        values[3] = largest;
        values[4] = -0.0f;
        const std::vector<uint8_t> input = encode_elements(values, FloatType::kF32);
        ASSERT_EQ(on_device(input, FloatType::kF32, 96, 32), on_cpu(input, FloatType::kF32, 96, 32))
            << largest;
    }
}

TEST_F(DeviceQuantizeBlockwise, TheFirstNonFiniteValueIsReportedWhereverItIs) {
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (FloatType type : kFloatTypes) {
        for (int64_t n : {1, 31, 64, 65, 131, 700}) {
            for (int64_t place = 0; place < n; place += 1 + n / 97) {
                std::vector<float> values = gaussian(n, 3);
                values[static_cast<std::size_t>(place)] = bad[place % 4];
                values.back() = INFINITY;
                const std::vector<uint8_t> input = encode_elements(values, type);
                with_some_schedule(
                    place, [&] { ASSERT_EQ(on_device(input, type, n, 32).first_non_finite, place) << n; });
            }
        }
    }
}

TEST_F(DeviceQuantizeBlockwise, BlocksWithoutNonFiniteValuesAreWrittenAllTheSame) {
    std::vector<float> values = gaussian(32 * 20, 9);
    const Quantized clean = on_cpu(encode_elements(values, FloatType::kF32), FloatType::kF32,
                                   static_cast<int64_t>(values.size()), 32);
    values[32 * 7 + 5] = NAN;
    const Quantized found = on_device(encode_elements(values, FloatType::kF32), FloatType::kF32,
                                      static_cast<int64_t>(values.size()), 32);
    EXPECT_EQ(found.first_non_finite, 32 * 7 + 5);
    for (std::size_t block = 0; block < 20; ++block) {
        if (block == 7) continue;
        EXPECT_EQ(found.absmax[block], clean.absmax[block]);
        for (std::size_t i = block * 16; i < block * 16 + 16; ++i)
            EXPECT_EQ(found.packed[i], clean.packed[i]);
    }
}

TEST_F(DeviceQuantizeBlockwise, AnEarlierReportIsOnlyLowered) {
    const std::vector<uint8_t> input = encode_elements({1.0f, 2.0f, NAN}, FloatType::kF32);
    const DeviceArray<uint8_t> values(input);
    const DeviceArray<uint8_t> packed(std::vector<uint8_t>(2), Access::kOutput);
    const DeviceArray<float> absmax(std::vector<float>(1), Access::kOutput);
    for (const auto& [before, after] : {std::pair<int64_t, int64_t>{-1, 2}, {1, 1}, {100, 2}}) {
        const DeviceArray<int64_t> first(std::vector<int64_t>{before}, Access::kOutput);
        device::quantize_blockwise_nf4({values.data(), FloatType::kF32, 3, 32, packed.data(), absmax.data()},
                                       first.data(), nullptr);
        EXPECT_EQ(first.download()[0], after);
    }
}

TEST_F(DeviceQuantizeBlockwise, NoValuesAreNoLaunch) {
    const int64_t launches = device_launches();
    device::quantize_blockwise_nf4({nullptr, FloatType::kF32, 0, 64, nullptr, nullptr}, nullptr, nullptr);
    EXPECT_EQ(device_launches(), launches);
}

TEST(DeviceQuantizeArguments, ImpossibleOnesThrow) {
    alignas(4) const uint8_t bytes[8] = {};
    uint8_t packed[2];
    float absmax[1];
    int64_t first = -1;
    QuantizeNf4Params params{bytes, FloatType::kF32, 1, 64, packed, absmax};
    const auto call = [&] { device::quantize_blockwise_nf4(params, &first, nullptr); };
    for (int blocksize : {0, -64, 16, 48, 100, 8192}) {
        params.blocksize = blocksize;
        EXPECT_THROW(call(), std::invalid_argument) << blocksize;
    }
    params.blocksize = 64;
    params.n = -1;
    EXPECT_THROW(call(), std::invalid_argument);
    params.n = 1;
    params.input = bytes + 2;
    EXPECT_THROW(call(), std::invalid_argument);
    params.input_type = FloatType::kF16;
    params.input = bytes + 1;
    EXPECT_THROW(call(), std::invalid_argument);
    params.input = bytes;
    params.n = int64_t{1} << 40;  // 2^35 blocks of 32, eight a CUDA block: more than a grid has
    params.blocksize = 32;
    EXPECT_THROW(call(), std::invalid_argument);
}

}  // namespace
}  // namespace qlora::kernels
