#include <stdexcept>

#include "kernels/device/device.h"
#include "kernels/device/nf4_tensor.h"
#include "kernels/test_values.h"

namespace qlora::kernels {
namespace {

class DeviceDequantizeRows : public OnDevice {};

struct Case {
    int64_t rows, columns, appended_columns;
    FloatType type;
    int blocksize = 64;
    bool nested = true;
    int64_t first = 0, count = -1;  // -1: to the last row
    std::size_t packed_shift = 0;   // bytes
    int out_shift = 0;              // elements
    int appended_shift = 0;         // elements
};

struct Matrix {
    Case test;
    Nf4Tensor weight;
    std::vector<float> appended;

    explicit Matrix(const Case& which)
        : test(which),
          weight(which.rows * which.columns, which.blocksize, static_cast<uint32_t>(which.columns),
                 which.packed_shift) {
        if (test.count < 0) test.count = test.rows - test.first;
        appended = gaussian(test.count * test.appended_columns, 3);
    }

    std::size_t row_bytes() const {
        return static_cast<std::size_t>((test.columns + test.appended_columns) * float_bytes(test.type));
    }

    /// Row by row: what the CPU gives for the row, then the rounded columns.
    std::vector<uint8_t> expected() const {
        std::vector<uint8_t> bytes;
        for (int64_t row = 0; row < test.count; ++row) {
            const int64_t begin = (test.first + row) * test.columns;
            std::vector<uint8_t> own(static_cast<std::size_t>(test.columns * float_bytes(test.type)));
            cpu::dequantize_blockwise_nf4(weight.host(test.nested), begin, begin + test.columns, own.data(),
                                          test.type);
            bytes.insert(bytes.end(), own.begin(), own.end());
            const auto from = appended.begin() + row * test.appended_columns;
            own = encode_elements({from, from + test.appended_columns}, test.type);
            bytes.insert(bytes.end(), own.begin(), own.end());
        }
        return bytes;
    }

    std::vector<uint8_t> on_device() const {
        const DeviceArray<float> columns(appended, Access::kInput,
                                         static_cast<std::size_t>(4 * test.appended_shift));
        const DeviceArray<uint8_t> out(
            std::vector<uint8_t>(static_cast<std::size_t>(test.count) * row_bytes(), 0xee), Access::kOutput,
            static_cast<std::size_t>(test.out_shift * float_bytes(test.type)));
        device::dequantize_rows_nf4({weight.on_device(test.nested), test.columns, test.first, test.count,
                                     test.appended_columns > 0 ? columns.data() : nullptr,
                                     test.appended_columns, out.data(), test.type},
                                    nullptr);
        return out.download();
    }
};

void expect_equal(const Case& test, int64_t schedule) {
    const Matrix matrix(test);
    const std::vector<uint8_t> expected = matrix.expected();
    with_some_schedule(schedule, [&] {
        ASSERT_EQ(matrix.on_device(), expected)
            << "[" << test.rows << ", " << test.columns << " + " << test.appended_columns << "]";
    });
}

TEST_F(DeviceDequantizeRows, EveryNumberOfColumnsGivesTheBytesOfTheCpu) {
    for (FloatType type : kFloatTypes) {
        for (int64_t columns = 1; columns <= 100; ++columns) {
            expect_equal({3, columns, columns % 5, type, columns % 2 == 0 ? 32 : 64, columns % 3 == 0},
                         columns);
        }
        for (int64_t columns : {255, 256, 257, 576, 1024}) {
            expect_equal({5, columns, 16, type}, columns);
            expect_equal({5, columns, 0, type, 32, false}, columns);
        }
    }
}

TEST_F(DeviceDequantizeRows, EveryNumberOfAppendedColumnsIsRoundedOnceBehindTheRow) {
    for (FloatType type : kFloatTypes) {
        for (int64_t appended = 0; appended <= 50; ++appended) {
            expect_equal({4, 64, appended, type}, appended);
            expect_equal({4, 40, appended, type}, appended);
        }
    }
}

TEST_F(DeviceDequantizeRows, EveryRangeOfRowsIsThatPartOfTheWhole) {
    for (FloatType type : kFloatTypes) {
        for (int64_t columns : {37, 48}) {
            for (int64_t first = 0; first <= 7; ++first) {
                for (int64_t count = 0; count <= 7 - first; ++count) {
                    expect_equal({7, columns, 8, type, 32, true, first, count}, first + count);
                }
            }
        }
    }
}

TEST_F(DeviceDequantizeRows, EveryBlocksizeAndManyNestedBlocks) {
    for (int blocksize = kMinBlocksize; blocksize <= kMaxBlocksize; blocksize *= 2) {
        // The last rows reach into nested block 1, and blocks run across row ends.
        const int64_t columns = 3 * blocksize / 2, rows = 175;
        for (FloatType type : kFloatTypes) {
            expect_equal({rows, columns, 16, type, blocksize, true, rows - 5}, blocksize);
            expect_equal({rows, columns, 16, type, blocksize, false, rows - 5}, blocksize);
        }
    }
}

TEST_F(DeviceDequantizeRows, EveryMisalignmentGivesTheSameBytes) {
    for (FloatType type : kFloatTypes) {
        for (std::size_t packed_shift : {0, 1, 4, 8}) {
            for (int out_shift : {0, 1, 2, 4, 8}) {
                for (int appended_shift : {0, 1, 4}) {
                    expect_equal({3, 64, 32, type, 64, true, 0, -1, packed_shift, out_shift, appended_shift},
                                 out_shift + appended_shift);
                }
            }
        }
    }
}

TEST_F(DeviceDequantizeRows, SeveralCudaBlocksGiveTheBytesOfTheCpuUnderEverySchedule) {
    // 256 threads of a piece of 16: rows lie across the ends of CUDA blocks.
    for (const Case& test : {Case{15, 272, 16, FloatType::kBF16}, Case{32, 112, 16, FloatType::kF32},
                             Case{40, 101, 5, FloatType::kF16}}) {
        const Matrix matrix(test);
        const std::vector<uint8_t> expected = matrix.expected();
        for_each_schedule([&] { ASSERT_EQ(matrix.on_device(), expected) << test.columns; });
    }
}

TEST_F(DeviceDequantizeRows, AlignedPiecesTakeOneLoadAndWideStores) {
    if (device_vector_accesses() < 0)
        GTEST_SKIP() << "nobody counts the accesses of a " << device_name() << " device";
    const auto accesses = [](const Case& test) {
        const Matrix matrix(test);
        const int64_t before = device_vector_accesses();
        matrix.on_device();
        return device_vector_accesses() - before;
    };
    constexpr FloatType kBF16 = FloatType::kBF16, kF32 = FloatType::kF32;
    // A piece of the matrix is one load, one of the appended columns four; bf16 takes two stores, fp32 four.
    EXPECT_EQ(accesses({3, 64, 0, kBF16}), 3 * 4 * (1 + 2));
    EXPECT_EQ(accesses({3, 64, 16, kBF16}), 3 * (4 * (1 + 2) + 4 + 2));
    EXPECT_EQ(accesses({3, 64, 24, kBF16}), 3 * (4 * (1 + 2) + 4 + 2));
    EXPECT_EQ(accesses({3, 64, 16, kF32}), 3 * (4 * (1 + 4) + 4 + 4));
    EXPECT_EQ(accesses({3, 64, 4, kF32}), 3 * 4 * (1 + 4));
    // The rows are misaligned to each other, to the codes, or one of the buffers is.
    EXPECT_EQ(accesses({3, 64, 4, kBF16}), 0);
    EXPECT_EQ(accesses({3, 72, 0, kBF16}), 0);
    EXPECT_EQ(accesses({3, 64, 16, kBF16, 64, true, 0, -1, 4}), 0);
    EXPECT_EQ(accesses({3, 64, 16, kBF16, 64, true, 0, -1, 0, 4}), 0);
    EXPECT_EQ(accesses({3, 64, 16, kBF16, 64, true, 0, -1, 0, 0, 1}), 0);
}

TEST_F(DeviceDequantizeRows, IsOneLaunchAndNoneForNoRows) {
    if (device_launches() < 0)
        GTEST_SKIP() << "nobody counts the launches of a " << device_name() << " device";
    const auto launches = [](const Case& test) {
        const Matrix matrix(test);
        const int64_t before = device_launches();
        matrix.on_device();
        return device_launches() - before;
    };
    EXPECT_EQ(launches({9, 64, 16, FloatType::kBF16}), 1);
    EXPECT_EQ(launches({9, 64, 16, FloatType::kBF16, 64, true, 9, 0}), 0);
}

TEST(DeviceDequantizeRowsArguments, ImpossibleOnesThrow) {
    alignas(16) uint8_t bytes[256] = {};
    float* const floats = reinterpret_cast<float*>(bytes);
    float scale = 1.0f;
    const DequantizeRowsParams good{
        {bytes, {&scale, nullptr, nullptr, 0.0f}, 32, 64}, 8, 0, 4, floats, 1, bytes, FloatType::kF32};
    const auto refused = [&](auto change) {
        DequantizeRowsParams params = good;
        change(params);
        EXPECT_THROW(device::dequantize_rows_nf4(params, nullptr), std::invalid_argument);
    };
    using Params = DequantizeRowsParams;
    refused([](Params& params) { params.weight.blocksize = 48; });
    refused([](Params& params) { params.columns = 0; });
    refused([](Params& params) { params.columns = 7; });
    refused([](Params& params) { params.columns = -8; });
    refused([](Params& params) { params.weight.n = -32; });
    refused([](Params& params) { params.first = -1; });
    refused([](Params& params) { params.first = 1; });
    refused([](Params& params) { params.count = 5; });
    refused([](Params& params) { params.count = -1; });
    refused([](Params& params) {
        params.first = 5;
        params.count = 0;
    });
    refused([](Params& params) {
        params.first = 2;
        params.count = INT64_MAX;
    });
    refused([](Params& params) { params.appended_columns = -1; });
    refused([](Params& params) { params.appended = nullptr; });
    refused([](Params& params) { params.appended_columns = INT64_MAX / 8; });
    refused([&](Params& params) { params.out = bytes + 2; });
    refused([&](Params& params) { params.appended = reinterpret_cast<float*>(bytes + 2); });
    Params none = good;
    none.first = 4;
    none.count = 0;
    EXPECT_NO_THROW(device::dequantize_rows_nf4(none, nullptr));
}

}  // namespace
}  // namespace qlora::kernels
