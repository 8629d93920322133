#include <cmath>
#include <cstring>
#include <stdexcept>

#include "kernels/device/device.h"
#include "kernels/device/nf4_tensor.h"
#include "kernels/test_values.h"

namespace qlora::kernels {
namespace {

class DeviceMatvec : public OnDevice {};

struct Case {
    int64_t outputs, inputs;
    int rows;
    FloatType type;
    int blocksize = 64;
    bool nested = true;
    std::size_t packed_shift = 0;  // bytes
    int x_shift = 0;               // elements, of x and y
};

/// The product in the documented order, one value at a time.
std::vector<uint8_t> reference(const std::vector<uint8_t>& weight, const std::vector<uint8_t>& x,
                               const Case& test) {
    std::vector<float> y;
    for (int row = 0; row < test.rows; ++row) {
        for (int64_t output = 0; output < test.outputs; ++output) {
            float lanes[32] = {};
            for (int64_t i = 0; i < test.inputs; ++i) {
                float& lane = lanes[i / 16 % 32];
                lane = std::fma(element(weight, test.type, output * test.inputs + i),
                                element(x, test.type, row * test.inputs + i), lane);
            }
            for (int distance = 16; distance > 0; distance /= 2) {
                for (int lane = 0; lane < distance; ++lane) lanes[lane] += lanes[lane + distance];
            }
            y.push_back(lanes[0]);
        }
    }
    return encode_elements(y, test.type);
}

struct Product {
    Nf4Tensor weight;
    std::vector<uint8_t> dequantized, x;
    Case test;

    explicit Product(const Case& which)
        : weight(which.outputs * which.inputs, which.blocksize, static_cast<uint32_t>(which.inputs),
                 which.packed_shift),
          dequantized(static_cast<std::size_t>(which.outputs * which.inputs * float_bytes(which.type))),
          x(encode_elements(gaussian(which.rows * which.inputs, 17), which.type)),
          test(which) {
        cpu::dequantize_blockwise_nf4(weight.host(test.nested), dequantized.data(), test.type);
    }

    std::vector<uint8_t> expected() const { return reference(dequantized, x, test); }

    std::vector<uint8_t> on_device() const {
        const std::size_t shift = static_cast<std::size_t>(test.x_shift * float_bytes(test.type));
        const DeviceArray<uint8_t> x_there(x, Access::kInput, shift);
        const std::size_t bytes = static_cast<std::size_t>(test.rows * test.outputs * float_bytes(test.type));
        const DeviceArray<uint8_t> y_there(std::vector<uint8_t>(bytes, 0xee), Access::kOutput, shift);
        device::matvec_nf4({weight.on_device(test.nested), test.outputs, test.inputs, x_there.data(),
                            test.rows, y_there.data(), test.type},
                           nullptr);
        return y_there.download();
    }
};

void expect_equal(const Case& test, int64_t schedule) {
    const Product product(test);
    const std::vector<uint8_t> expected = product.expected();
    with_some_schedule(schedule, [&] {
        ASSERT_EQ(product.on_device(), expected)
            << "[" << test.outputs << ", " << test.inputs << "], " << test.rows << " rows";
    });
}

TEST_F(DeviceMatvec, EveryNumberOfInputsFollowsTheOrder) {
    for (FloatType type : kFloatTypes) {
        for (int64_t inputs = 1; inputs <= 200; inputs += inputs < 70 ? 1 : 3) {
            expect_equal({5, inputs, 1, type, 32, inputs % 2 == 0}, inputs);
        }
        for (int64_t inputs : {511, 512, 513, 528, 1024, 1040, 1100}) {
            expect_equal({3, inputs, 2, type}, inputs);
        }
    }
}

TEST_F(DeviceMatvec, EveryNumberOfOutputsAndRowsFollowsTheOrder) {
    for (FloatType type : kFloatTypes) {
        for (int rows = 1; rows <= kFewRows; ++rows) {
            for (int64_t outputs = 1; outputs <= 18; outputs += outputs < 9 ? 1 : 4) {
                expect_equal({outputs, 48, rows, type, 64, rows % 2 == 0}, outputs + rows);
                expect_equal({outputs, 37, rows, type, 32, rows % 2 == 0}, outputs + rows);
            }
        }
    }
}

TEST_F(DeviceMatvec, EveryMisalignmentGivesTheSameBytes) {
    for (FloatType type : kFloatTypes) {
        for (std::size_t packed_shift : {0, 1, 4, 8}) {
            for (int x_shift : {0, 1, 2, 4, 8}) {
                expect_equal({7, 64, 3, type, 64, true, packed_shift, x_shift}, x_shift);
            }
        }
    }
}

TEST_F(DeviceMatvec, TheBytesAreTheSameUnderEverySchedule) {
    for (const Case& test : {Case{19, 1056, 8, FloatType::kBF16}, Case{9, 333, 3, FloatType::kF32}}) {
        const Product product(test);
        const std::vector<uint8_t> expected = product.expected();
        for_each_schedule([&] { ASSERT_EQ(product.on_device(), expected); });
    }
}

TEST_F(DeviceMatvec, AlignedRowsTakeWideLoads) {
    if (device_vector_accesses() < 0)
        GTEST_SKIP() << "nobody counts the accesses of a " << device_name() << " device";
    const auto accesses = [](const Case& test) {
        const Product product(test);
        const int64_t before = device_vector_accesses();
        product.on_device();
        return device_vector_accesses() - before;
    };
    // Two groups a row: a load for each of three outputs' weights; two for a group of x, by each of two
    // warps.
    EXPECT_EQ(accesses({3, 32, 1, FloatType::kBF16}), 3 * 2 + 2 * 2 * 2);
    EXPECT_EQ(accesses({3, 32, 3, FloatType::kBF16}), 3 * 2 + 2 * 2 * 2 * 3);
    EXPECT_EQ(accesses({2, 32, 1, FloatType::kBF16}), 2 * 2 + 2 * 2);
    EXPECT_EQ(accesses({3, 33, 1, FloatType::kBF16}), 0);
}

TEST_F(DeviceMatvec, IsTheProductInDouble) {
    const Case test{16, 2048, 4, FloatType::kF32};
    const Product product(test);
    const std::vector<uint8_t> found = product.on_device();
    for (int row = 0; row < test.rows; ++row) {
        for (int64_t output = 0; output < test.outputs; ++output) {
            double sum = 0.0, magnitude = 0.0;
            for (int64_t i = 0; i < test.inputs; ++i) {
                const double term =
                    double{element(product.dequantized, test.type, output * test.inputs + i)} *
                    element(product.x, test.type, row * test.inputs + i);
                sum += term;
                magnitude += std::fabs(term);
            }
            // A lane adds 64 terms, then 5 steps: at most 70 roundings of half an ulp of the terms so far.
            EXPECT_NEAR(element(found, test.type, row * test.outputs + output), sum,
                        70 * 0x1p-24 * magnitude);
        }
    }
}

TEST_F(DeviceMatvec, NonFiniteInputsReachExactlyTheirRow) {
    const Case test{10, 100, 3, FloatType::kF32};
    Product product(test);
    const float bad = NAN;
    std::memcpy(product.x.data() + 4 * (1 * 100 + 57), &bad, 4);
    const std::vector<uint8_t> found = product.on_device();
    for (int row = 0; row < 3; ++row) {
        for (int64_t output = 0; output < 10; ++output) {
            EXPECT_EQ(std::isnan(element(found, test.type, row * 10 + output)), row == 1);
        }
    }
}

TEST(DeviceMatvecArguments, ImpossibleOnesThrow) {
    alignas(16) uint8_t bytes[64] = {};
    float scale = 1.0f;
    const MatvecNf4Params good{
        {bytes, {&scale, nullptr, nullptr, 0.0f}, 32, 64}, 4, 8, bytes, 1, bytes, FloatType::kF32};
    const auto refused = [&](auto change) {
        MatvecNf4Params params = good;
        change(params);
        EXPECT_THROW(device::matvec_nf4(params, nullptr), std::invalid_argument);
    };
    refused([](MatvecNf4Params& params) { params.rows = 0; });
    refused([](MatvecNf4Params& params) { params.rows = 9; });
    refused([](MatvecNf4Params& params) { params.outputs = 3; });
    refused([](MatvecNf4Params& params) { params.inputs = 7; });
    refused([](MatvecNf4Params& params) { params.inputs = 0; });
    refused([](MatvecNf4Params& params) { params.outputs = -4; });
    refused([](MatvecNf4Params& params) {
        params.outputs = -4;
        params.weight.n = -32;
    });
    refused([](MatvecNf4Params& params) { params.weight.n = 33; });
    refused([](MatvecNf4Params& params) { params.weight.blocksize = 63; });
    refused([&](MatvecNf4Params& params) { params.x = bytes + 2; });
    refused([&](MatvecNf4Params& params) { params.y = bytes + 2; });
    MatvecNf4Params none = good;
    none.outputs = 0;
    none.weight.n = 0;
    EXPECT_NO_THROW(device::matvec_nf4(none, nullptr));
}

}  // namespace
}  // namespace qlora::kernels
