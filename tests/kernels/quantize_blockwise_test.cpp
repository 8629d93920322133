#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/instruction_sets.h"
#include "kernels/test_values.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/codebook.h"
#include "qlora/kernels/kernels.h"

namespace qlora::kernels::cpu {
namespace {

constexpr uint8_t kUntouched = 0xee;

struct Quantized {
    std::vector<uint8_t> packed;
    std::vector<float> absmax;
    bool operator==(const Quantized&) const = default;
};

/// The rule, written one value at a time.
Quantized reference(const std::vector<float>& values, int blocksize) {
    Quantized result;
    const size_t n = values.size();
    std::vector<int> codes;
    for (size_t begin = 0; begin < n; begin += static_cast<size_t>(blocksize)) {
        const size_t end = std::min(n, begin + static_cast<size_t>(blocksize));
        float absmax = 0.0f;
        for (size_t i = begin; i < end; ++i) absmax = std::max(absmax, std::fabs(values[i]));
        const float scale = 1.0f / absmax;
        for (size_t i = begin; i < end; ++i) {
            const float x = values[i] * scale;
            int code = 0;
            while (code < 15 && x > (decode_nf4(code) + decode_nf4(code + 1)) / 2.0f) ++code;
            codes.push_back(std::isnan(x) ? 7 : code);
        }
        result.absmax.push_back(absmax);
    }
    if (codes.size() % 2 == 1) codes.push_back(7);
    for (size_t i = 0; i < codes.size(); i += 2) {
        result.packed.push_back(static_cast<uint8_t>(codes[i] * 16 + codes[i + 1]));
    }
    return result;
}

/// Quantizes the blocks in the given order of ranges and checks that nothing outside the results is written.
Quantized quantize(const std::vector<float>& values, FloatType type, int blocksize, size_t shift = 0,
                   int64_t blocks_a_call = 0) {
    const int64_t n = static_cast<int64_t>(values.size());
    const int64_t blocks = block_count(n, blocksize);
    const std::vector<uint8_t> input = encode_elements(values, type, shift);
    Quantized result;
    result.packed.assign(static_cast<size_t>(packed_bytes(n)) + 8, kUntouched);
    result.absmax.assign(static_cast<size_t>(blocks) + 2, -7.0f);
    const QuantizeNf4Params params{input.data() + shift, type, n, blocksize, result.packed.data(),
                                   result.absmax.data()};
    if (blocks_a_call == 0) {
        EXPECT_EQ(quantize_blockwise_nf4(params), -1);
    } else {
        for (int64_t block = (blocks - 1) / blocks_a_call * blocks_a_call; block >= 0;
             block -= blocks_a_call) {
            EXPECT_EQ(quantize_blockwise_nf4(params, block, std::min(block + blocks_a_call, blocks)), -1);
        }
    }
    for (size_t i = result.packed.size() - 8; i < result.packed.size(); ++i)
        EXPECT_EQ(result.packed[i], kUntouched);
    for (size_t i = result.absmax.size() - 2; i < result.absmax.size(); ++i)
        EXPECT_EQ(result.absmax[i], -7.0f);
    result.packed.resize(static_cast<size_t>(packed_bytes(n)));
    result.absmax.resize(static_cast<size_t>(blocks));
    return result;
}

class QuantizeBlockwise : public testing::TestWithParam<InstructionSet> {
  protected:
    UseInstructionSet use_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Paths, QuantizeBlockwise, testing::ValuesIn(supported_sets()), set_name);

TEST_P(QuantizeBlockwise, TheRequestedPathRuns) {
    EXPECT_EQ(instruction_set(), GetParam());
}

TEST_P(QuantizeBlockwise, EveryLengthTypeAndMisalignmentFollowsTheRule) {
    for (FloatType type : kFloatTypes) {
        for (int64_t n = 1; n <= 300; ++n) {
            const std::vector<float> values = round_elements(gaussian(n, static_cast<uint32_t>(n)), type);
            for (int blocksize : {32, 64, 128}) {
                ASSERT_EQ(quantize(values, type, blocksize, static_cast<size_t>(n % 5)),
                          reference(values, blocksize))
                    << n << " " << blocksize;
            }
        }
    }
}

TEST_P(QuantizeBlockwise, EveryBlocksizeFollowsTheRuleAroundBlockEdges) {
    for (int blocksize = 32; blocksize <= 4096; blocksize *= 2) {
        for (int extra : {-33, -1, 0, 1, 17, 32}) {
            const int64_t n = 2 * blocksize + extra;
            const std::vector<float> values = gaussian(n, static_cast<uint32_t>(blocksize + extra), 0.02f);
            ASSERT_EQ(quantize(values, FloatType::kF32, blocksize), reference(values, blocksize)) << n;
        }
    }
}

TEST_P(QuantizeBlockwise, RangesInAnyOrderGiveTheWhole) {
    const std::vector<float> values = gaussian(64 * 23 + 5, 1);
    const Quantized whole = quantize(values, FloatType::kF32, 64);
    for (int64_t blocks_a_call : {1, 2, 7, 23, 24, 100}) {
        EXPECT_EQ(quantize(values, FloatType::kF32, 64, 0, blocks_a_call), whole);
    }
}

TEST_P(QuantizeBlockwise, PlateausAtTheCodeValuesKeepTheirCodes) {
    std::vector<float> values;
    for (int i = 0; i < 64; ++i) values.push_back(decode_nf4(i / 4));
    const Quantized result = quantize(values, FloatType::kF32, 64);
    EXPECT_EQ(result.absmax[0], 1.0f);
    for (int i = 0; i < 64; ++i) EXPECT_EQ(code_at(result.packed.data(), i), i / 4);
}

TEST_P(QuantizeBlockwise, FlatBlocksTakeAnEndCode) {
    const Quantized up = quantize(std::vector<float>(64, 0.37f), FloatType::kF32, 64);
    const Quantized down = quantize(std::vector<float>(64, -0.37f), FloatType::kF32, 64);
    EXPECT_EQ(up.absmax[0], 0.37f);
    EXPECT_EQ(up.packed, std::vector<uint8_t>(32, 0xff));
    EXPECT_EQ(down.absmax[0], 0.37f);
    EXPECT_EQ(down.packed, std::vector<uint8_t>(32, 0x00));
}

TEST_P(QuantizeBlockwise, ARampUsesEveryCodeInOrder) {
    std::vector<float> values;
    for (int i = -2048; i < 2048; ++i) values.push_back(static_cast<float>(i) / 2048);
    const Quantized result = quantize(values, FloatType::kF32, 4096);
    int last = 0;
    int steps = 0;
    for (int i = 0; i < 4096; ++i) {
        const int code = code_at(result.packed.data(), i);
        ASSERT_TRUE(code == last || code == last + 1);
        steps += code - last;
        last = code;
    }
    EXPECT_EQ(steps, 15);
}

TEST_P(QuantizeBlockwise, ThresholdsTakeTheLowerCode) {
    // A block maximum of 1 makes the scaled values the thresholds themselves.
    std::vector<float> values(64, 1.0f);
    for (int i = 0; i < 15; ++i) {
        values[static_cast<size_t>(i)] = nf4_thresholds().at[i];
        values[static_cast<size_t>(32 + i)] = std::nextafterf(nf4_thresholds().at[i], 2.0f);
    }
    const Quantized result = quantize(values, FloatType::kF32, 64);
    for (int i = 0; i < 15; ++i) {
        EXPECT_EQ(code_at(result.packed.data(), i), i);
        EXPECT_EQ(code_at(result.packed.data(), 32 + i), i + 1);
    }
}

TEST_P(QuantizeBlockwise, AZeroBlockHasScaleZeroAndTheZeroCode) {
    std::vector<float> values(128, 0.0f);
    for (size_t i = 0; i < 64; i += 3) values[i] = -0.0f;
    values[100] = 2.0f;
    const Quantized result = quantize(values, FloatType::kF32, 64);
    EXPECT_EQ(result.absmax, (std::vector<float>{0.0f, 2.0f}));
    for (int i = 0; i < 128; ++i) EXPECT_EQ(code_at(result.packed.data(), i), i == 100 ? 15 : 7);
}

TEST_P(QuantizeBlockwise, TinyAndHugeBlocksFollowTheIeeeRule) {
    // 2^-128 is the largest scale whose reciprocal overflows: there non-zero values go to the ends and zeros
    // stay zero.
    for (float largest : {0x1p-149f, 0x1p-128f, 0x1.00001p-128f, 1e-38f, 0x1p-126f, 3e38f, 3.4028235e38f}) {
        std::vector<float> values = gaussian(96, 5);
        for (float& value : values) value = std::clamp(value / 4, -1.0f, 1.0f) * largest;
        values[3] = largest;
        values[4] = 0.0f;
        const Quantized result = quantize(values, FloatType::kF32, 32);
        ASSERT_EQ(result, reference(values, 32)) << largest;
        EXPECT_EQ(code_at(result.packed.data(), 3), 15);
        EXPECT_EQ(code_at(result.packed.data(), 4), 7);
    }
}

TEST_P(QuantizeBlockwise, OddCountsPadWithTheZeroCode) {
    const Quantized result = quantize({1.0f, -1.0f, 0.5f}, FloatType::kF32, 64);
    EXPECT_EQ(result.packed, (std::vector<uint8_t>{0xf0, 0xc7}));
}

TEST_P(QuantizeBlockwise, TheFirstNonFiniteValueIsReportedWhereverItIs) {
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (FloatType type : kFloatTypes) {
        for (int64_t n : {1, 31, 64, 65, 131, 200}) {
            for (int64_t place = 0; place < n; ++place) {
                std::vector<float> values = gaussian(n, 3);
                values[static_cast<size_t>(place)] = bad[place % 4];
                values.back() = INFINITY;
                const std::vector<uint8_t> input = encode_elements(values, type);
                std::vector<uint8_t> packed(200);
                std::vector<float> absmax(8);
                const QuantizeNf4Params params{input.data(), type, n, 32, packed.data(), absmax.data()};
                ASSERT_EQ(quantize_blockwise_nf4(params), place) << n;
            }
        }
    }
}

TEST_P(QuantizeBlockwise, ASignallingNanIsReportedToo) {
    const uint32_t bits[4] = {0, 0x7f800001u, 0, 0};
    uint8_t packed[2];
    float absmax;
    EXPECT_EQ(quantize_blockwise_nf4({bits, FloatType::kF32, 4, 64, packed, &absmax}), 1);
}

TEST_P(QuantizeBlockwise, ImpossibleArgumentsThrow) {
    const float value = 1.0f;
    uint8_t packed[1];
    float absmax[1];
    QuantizeNf4Params params{&value, FloatType::kF32, 1, 64, packed, absmax};
    EXPECT_THROW(quantize_blockwise_nf4(params, 0, 2), std::invalid_argument);
    EXPECT_THROW(quantize_blockwise_nf4(params, 1, 0), std::invalid_argument);
    EXPECT_THROW(quantize_blockwise_nf4(params, -1, 1), std::invalid_argument);
    for (int blocksize : {0, -64, 16, 48, 100, 8192}) {
        params.blocksize = blocksize;
        EXPECT_THROW(quantize_blockwise_nf4(params), std::invalid_argument) << blocksize;
    }
}

TEST(InstructionSets, TheFastestSupportedOneRunsFromTheStart) {
    EXPECT_EQ(instruction_set(), supported_sets().back());
}

}  // namespace
}  // namespace qlora::kernels::cpu
