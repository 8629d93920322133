#include <cmath>
#include <stdexcept>

#include "kernels/device/device.h"
#include "kernels/device/nf4_tensor.h"
#include "kernels/test_values.h"

namespace qlora::kernels {
namespace {

class DeviceDequantizeBlockwise : public OnDevice {};

std::vector<uint8_t> empty_result(int64_t begin, int64_t end, FloatType type) {
    return std::vector<uint8_t>(static_cast<std::size_t>((end - begin) * float_bytes(type)), 0xee);
}

std::vector<uint8_t> on_cpu(const Nf4View& view, int64_t begin, int64_t end, FloatType type) {
    std::vector<uint8_t> result = empty_result(begin, end, type);
    cpu::dequantize_blockwise_nf4(view, begin, end, result.data(), type);
    return result;
}

/// `shift` elements past an aligned place.
std::vector<uint8_t> on_device(const Nf4View& view, int64_t begin, int64_t end, FloatType type,
                               int shift = 0) {
    const DeviceArray<uint8_t> out(empty_result(begin, end, type), Access::kOutput,
                                   static_cast<std::size_t>(shift * float_bytes(type)));
    device::dequantize_blockwise_nf4(view, begin, end, out.data(), type, nullptr);
    return out.download();
}

TEST_F(DeviceDequantizeBlockwise, EveryLengthAndTypeGivesTheBytesOfTheCpu) {
    for (FloatType type : kFloatTypes) {
        for (int64_t n = 1; n <= 300; ++n) {
            const int blocksize = n % 2 == 0 ? 32 : 64;
            const Nf4Tensor tensor(n, blocksize, static_cast<uint32_t>(n));
            for (bool nested : {false, true}) {
                const std::vector<uint8_t> expected = on_cpu(tensor.host(nested), 0, n, type);
                with_some_schedule(
                    n, [&] { ASSERT_EQ(on_device(tensor.on_device(nested), 0, n, type), expected) << n; });
            }
        }
    }
}

TEST_F(DeviceDequantizeBlockwise, EveryMisalignmentGivesTheSameBytes) {
    for (FloatType type : kFloatTypes) {
        for (std::size_t packed_shift : {0, 1, 4, 7, 8, 16}) {
            const Nf4Tensor tensor(203, 32, 7, packed_shift);
            const std::vector<uint8_t> expected = on_cpu(tensor.host(true), 0, 203, type);
            for (int shift = 0; shift <= 9; ++shift) {
                ASSERT_EQ(on_device(tensor.on_device(true), 0, 203, type, shift), expected)
                    << packed_shift << " " << shift;
            }
        }
    }
}

TEST_F(DeviceDequantizeBlockwise, AlignedGroupsTakeOneLoadAndWideStores) {
    if (device_vector_accesses() < 0)
        GTEST_SKIP() << "nobody counts the accesses of a " << device_name() << " device";
    const Nf4Tensor aligned(100, 32, 7);
    const Nf4Tensor misaligned(100, 32, 7, 4);
    const auto accesses = [](const Nf4Tensor& tensor, int64_t begin, int64_t end, FloatType type, int shift) {
        const int64_t before = device_vector_accesses();
        on_device(tensor.on_device(true), begin, end, type, shift);
        return device_vector_accesses() - before;
    };
    // Six groups of 16 are whole, the last four values are not.
    EXPECT_EQ(accesses(aligned, 0, 100, FloatType::kBF16, 0), 6 * (1 + 2));
    EXPECT_EQ(accesses(aligned, 0, 100, FloatType::kF16, 8), 6 * (1 + 2));
    EXPECT_EQ(accesses(aligned, 0, 100, FloatType::kF32, 4), 6 * (1 + 4));
    EXPECT_EQ(accesses(aligned, 16, 96, FloatType::kBF16, 0), 5 * (1 + 2));
    EXPECT_EQ(accesses(aligned, 17, 95, FloatType::kBF16, 1), 3 * (1 + 2));
    EXPECT_EQ(accesses(aligned, 17, 100, FloatType::kBF16, 0), 0);
    EXPECT_EQ(accesses(misaligned, 0, 100, FloatType::kBF16, 0), 0);
}

TEST_F(DeviceDequantizeBlockwise, EveryRangeIsThatPartOfTheWhole) {
    const Nf4Tensor tensor(203, 32, 11);
    for (FloatType type : kFloatTypes) {
        for (int64_t begin = 0; begin <= 203; begin += begin < 40 ? 1 : 5) {
            for (int64_t end = begin; end <= 203; end += 1 + (begin + end) % 7) {
                const std::vector<uint8_t> expected = on_cpu(tensor.host(false), begin, end, type);
                // Once wherever it falls, once where whole groups are aligned.
                for (int shift : {0, static_cast<int>(begin % 16)}) {
                    ASSERT_EQ(on_device(tensor.on_device(false), begin, end, type, shift), expected)
                        << begin << " " << end << " " << shift;
                }
            }
        }
    }
}

TEST_F(DeviceDequantizeBlockwise, SeveralCudaBlocksGiveTheBytesOfTheCpuUnderEverySchedule) {
    // 256 threads of 16 values.
    for (int64_t n : {4095, 4096, 4097, 12305}) {
        const Nf4Tensor tensor(n, 64, static_cast<uint32_t>(n));
        const std::vector<uint8_t> expected = on_cpu(tensor.host(true), 0, n, FloatType::kBF16);
        for_each_schedule(
            [&] { ASSERT_EQ(on_device(tensor.on_device(true), 0, n, FloatType::kBF16), expected) << n; });
    }
}

TEST_F(DeviceDequantizeBlockwise, ManyNestedBlocksAndEveryBlocksize) {
    for (int blocksize = kMinBlocksize; blocksize <= kMaxBlocksize; blocksize *= 2) {
        const int64_t n = int64_t{blocksize} * 259 + 21;
        const Nf4Tensor tensor(n, blocksize, static_cast<uint32_t>(blocksize));
        for (FloatType type : kFloatTypes) {
            const int64_t from = n - 5 * blocksize - 3;  // from nested block 0 into nested block 1
            ASSERT_EQ(on_device(tensor.on_device(true), from, n, type),
                      on_cpu(tensor.host(true), from, n, type));
        }
    }
}

TEST_F(DeviceDequantizeBlockwise, ScalesAtTheEdgesOfTheTypesRoundOnce) {
    const float scales[] = {0x1.01p0f, 0x1.03p0f,  0x1.002p0f, 0x1.006p0f, 0.0f,     -0.0f,
                            1e-45f,    3e-39f,     6e-8f,      1.5e-5f,    65504.0f, 65520.0f,
                            90000.f,   3.4028e38f, -2.5f,      INFINITY,   NAN,      -NAN};
    for (float scale : scales) {
        Nf4Tensor tensor(64, 64, 3);
        tensor.set_scale(scale);
        for (FloatType type : kFloatTypes) {
            // The payload of an fp32 NaN is the processor's choice.
            if (std::isnan(scale) && type == FloatType::kF32) continue;
            if (std::isnan(scale) && type == FloatType::kF16) continue;  // and so is its sign
            ASSERT_EQ(on_device(tensor.on_device(false), 0, 64, type),
                      on_cpu(tensor.host(false), 0, 64, type))
                << scale;
        }
    }
}

TEST_F(DeviceDequantizeBlockwise, AnEmptyRangeIsNoLaunch) {
    const Nf4Tensor tensor(64, 64, 3);
    const int64_t launches = device_launches();
    EXPECT_TRUE(on_device(tensor.on_device(false), 64, 64, FloatType::kF32).empty());
    EXPECT_EQ(device_launches(), launches);
}

TEST(DeviceDequantizeArguments, ImpossibleOnesThrow) {
    alignas(4) uint8_t bytes[64] = {};
    float scale = 1.0f;
    Nf4View view{bytes, {&scale, nullptr, nullptr, 0.0f}, 10, 64};
    const auto call = [&](int64_t begin, int64_t end, void* out) {
        device::dequantize_blockwise_nf4(view, begin, end, out, FloatType::kF32, nullptr);
    };
    EXPECT_THROW(call(0, 11, bytes), std::invalid_argument);
    EXPECT_THROW(call(5, 4, bytes), std::invalid_argument);
    EXPECT_THROW(call(-1, 4, bytes), std::invalid_argument);
    EXPECT_THROW(call(0, 4, bytes + 2), std::invalid_argument);
    view.blocksize = 65;
    EXPECT_THROW(call(0, 4, bytes), std::invalid_argument);
}

}  // namespace
}  // namespace qlora::kernels
