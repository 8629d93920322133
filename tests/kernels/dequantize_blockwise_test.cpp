#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "kernels/instruction_sets.h"
#include "kernels/test_values.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/codebook.h"
#include "qlora/kernels/dynamic_code.h"
#include "qlora/kernels/kernels.h"

namespace qlora::kernels::cpu {
namespace {

constexpr uint8_t kUntouched = 0xee;

/// Random codes with scales of widely differing size, both as plain values and as 8-bit codes.
struct Tensor {
    int64_t n;
    int blocksize;
    std::vector<uint8_t> packed, codes;
    std::vector<float> absmax, nested_absmax, decoded;
    float offset = 0.031f;

    Tensor(int64_t count, int size, uint32_t seed) : n(count), blocksize(size) {
        std::mt19937 engine(seed);
        packed.resize(static_cast<size_t>(packed_bytes(n)));
        for (uint8_t& byte : packed) byte = static_cast<uint8_t>(engine());
        const int64_t blocks = block_count(n, blocksize);
        for (int64_t block = 0; block < blocks; ++block) {
            absmax.push_back(std::ldexp(1.0f + static_cast<float>(engine() % 1000) / 1000,
                                        static_cast<int>(engine() % 40) - 30));
            codes.push_back(static_cast<uint8_t>(engine()));
        }
        for (int64_t i = 0; i < nested_block_count(blocks); ++i) {
            nested_absmax.push_back(0.01f + 0.003f * static_cast<float>(i));
        }
        for (int64_t block = 0; block < blocks; ++block) {
            const size_t at = static_cast<size_t>(block);
            const float product = kSignedDynamicMap.value[codes[at]] * nested_absmax[at / 256];
            decoded.push_back(product + offset);
        }
    }

    Nf4View plain() const { return {packed.data(), {absmax.data(), nullptr, nullptr, 0.0f}, n, blocksize}; }
    Nf4View nested() const {
        return {packed.data(), {nullptr, codes.data(), nested_absmax.data(), offset}, n, blocksize};
    }

    /// Values [begin, end) as bytes of `type`, by the definition.
    std::vector<uint8_t> expected(const std::vector<float>& scales, int64_t begin, int64_t end,
                                  FloatType type) const {
        std::vector<float> values;
        for (int64_t i = begin; i < end; ++i) {
            values.push_back(decode_nf4(code_at(packed.data(), i)) *
                             scales[static_cast<size_t>(i / blocksize)]);
        }
        return encode_elements(values, type);
    }
};

/// Writes at a byte offset of 1 and checks that nothing else is written.
std::vector<uint8_t> dequantize(const Nf4View& view, int64_t begin, int64_t end, FloatType type) {
    const size_t size = static_cast<size_t>((end - begin) * float_bytes(type));
    std::vector<uint8_t> bytes(size + 9, kUntouched);
    dequantize_blockwise_nf4(view, begin, end, bytes.data() + 1, type);
    EXPECT_EQ(bytes[0], kUntouched);
    for (size_t i = size + 1; i < bytes.size(); ++i) EXPECT_EQ(bytes[i], kUntouched);
    return {bytes.begin() + 1, bytes.begin() + 1 + static_cast<std::ptrdiff_t>(size)};
}

class DequantizeBlockwise : public testing::TestWithParam<InstructionSet> {
  protected:
    UseInstructionSet use_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Paths, DequantizeBlockwise, testing::ValuesIn(supported_sets()), set_name);

TEST_P(DequantizeBlockwise, EveryLengthAndTypeFollowsTheRule) {
    for (FloatType type : kFloatTypes) {
        for (int64_t n = 1; n <= 300; ++n) {
            for (int blocksize : {32, 64}) {
                const Tensor tensor(n, blocksize, static_cast<uint32_t>(n));
                ASSERT_EQ(dequantize(tensor.plain(), 0, n, type), tensor.expected(tensor.absmax, 0, n, type))
                    << n;
                ASSERT_EQ(dequantize(tensor.nested(), 0, n, type),
                          tensor.expected(tensor.decoded, 0, n, type))
                    << n;
            }
        }
    }
}

TEST_P(DequantizeBlockwise, EveryRangeIsThatPartOfTheWhole) {
    const Tensor tensor(203, 32, 11);
    for (FloatType type : kFloatTypes) {
        for (int64_t begin = 0; begin <= tensor.n; ++begin) {
            for (int64_t end = begin; end <= tensor.n; end += 1 + (begin + end) % 3) {
                ASSERT_EQ(dequantize(tensor.plain(), begin, end, type),
                          tensor.expected(tensor.absmax, begin, end, type))
                    << begin << " " << end;
            }
        }
    }
}

TEST_P(DequantizeBlockwise, ManyNestedBlocksAndEveryBlocksize) {
    for (int blocksize = 32; blocksize <= 4096; blocksize *= 2) {
        const Tensor tensor(int64_t{blocksize} * 259 + 21, blocksize, static_cast<uint32_t>(blocksize));
        for (FloatType type : kFloatTypes) {
            const int64_t from = tensor.n - 5 * blocksize - 3;
            ASSERT_EQ(dequantize(tensor.nested(), from, tensor.n, type),
                      tensor.expected(tensor.decoded, from, tensor.n, type));
        }
    }
}

TEST_P(DequantizeBlockwise, ScalesAtTheEdgesOfTheTypesRoundOnce) {
    // Halves overflow and go subnormal, bfloat16 rounds up to infinity, and a damaged file may hold anything.
    // The first four lie midway between two bfloat16, or two half, values: even below, even above.
    const float scales[] = {0x1.01p0f, 0x1.03p0f,  0x1.002p0f, 0x1.006p0f, 0.0f,     -0.0f,
                            1e-45f,    3e-39f,     6e-8f,      1.5e-5f,    65504.0f, 65520.0f,
                            90000.f,   3.4028e38f, -2.5f,      INFINITY,   NAN,      -NAN};
    for (float scale : scales) {
        Tensor tensor(64, 64, 3);
        for (size_t i = 0; i < 8; ++i) tensor.packed[i] = static_cast<uint8_t>(0x22 * i + 1);
        tensor.absmax[0] = scale;
        for (FloatType type : kFloatTypes) {
            const std::vector<uint8_t> found = dequantize(tensor.plain(), 0, 64, type);
            if (std::isnan(scale) && type == FloatType::kF32)
                continue;  // the product's NaN payload is the CPU's choice
            ASSERT_EQ(found, tensor.expected(tensor.absmax, 0, 64, type)) << scale;
        }
    }
}

TEST_P(DequantizeBlockwise, RoundTripErrorOfGaussianWeightsIsThatOfNf4) {
    const int64_t n = 64 * 4096;
    const std::vector<float> values = gaussian(n, 42);
    std::vector<uint8_t> packed(static_cast<size_t>(packed_bytes(n)));
    std::vector<float> absmax(static_cast<size_t>(block_count(n, 64)));
    std::vector<float> back(values.size());
    ASSERT_EQ(quantize_blockwise_nf4({values.data(), FloatType::kF32, n, 64, packed.data(), absmax.data()}),
              -1);
    dequantize_blockwise_nf4({packed.data(), {absmax.data(), nullptr, nullptr, 0.0f}, n, 64}, back.data(),
                             FloatType::kF32);
    double absolute = 0, sum = 0;
    int64_t to_zero = 0, flipped = 0;
    for (size_t i = 0; i < values.size(); ++i) {
        absolute += std::fabs(double{values[i]} - back[i]);
        sum += double{back[i]} - values[i];
        to_zero += back[i] == 0.0f ? 1 : 0;
        flipped += back[i] * values[i] < 0 ? 1 : 0;
    }
    const double count = static_cast<double>(n);
    // bitsandbytes' own tests state a mean error of 0.0728 for NF4, blocksize 64, unit normal input.
    EXPECT_NEAR(absolute / count, 0.0728, 0.0005);
    EXPECT_NEAR(sum / count, 0.0, 0.005);
    EXPECT_EQ(flipped, 0);
    EXPECT_NEAR(static_cast<double>(to_zero) / count, 0.084, 0.01);
}

TEST_P(DequantizeBlockwise, ImpossibleArgumentsThrow) {
    const Tensor tensor(100, 64, 1);
    float out[100];
    EXPECT_THROW(dequantize_blockwise_nf4(tensor.plain(), 0, 101, out, FloatType::kF32),
                 std::invalid_argument);
    EXPECT_THROW(dequantize_blockwise_nf4(tensor.plain(), 5, 4, out, FloatType::kF32), std::invalid_argument);
    EXPECT_THROW(dequantize_blockwise_nf4(tensor.plain(), -1, 4, out, FloatType::kF32),
                 std::invalid_argument);
    Nf4View view = tensor.plain();
    view.blocksize = 65;
    EXPECT_THROW(dequantize_blockwise_nf4(view, out, FloatType::kF32), std::invalid_argument);
}

}  // namespace
}  // namespace qlora::kernels::cpu
