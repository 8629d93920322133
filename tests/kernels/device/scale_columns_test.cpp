#include <stdexcept>

#include "kernels/device/device_rows.h"
#include "qlora/kernels/cuda_layer.h"
#include "qlora/kernels/elementwise.h"

namespace qlora::kernels {
namespace {

class DeviceColumns : public OnDevice {};

/// `other` is the start, or x of the gradient.
enum class Operand : uint8_t { kNone, kFirst, kOther, kScale, kBias, kResult };

struct ColumnsCase {
    int64_t rows, size;
    FloatType type = FloatType::kF32;
    int64_t gap = 0;
    int shift = 0;
    bool has_bias = true, has_start = true;
    int64_t gap_of_other = 8;          ///< beyond `gap`
    Operand shifted = Operand::kNone;  ///< one that lies an element past an aligned place

    RowsLayout layout(Operand operand) const {
        return {rows, size, type, shifted == operand ? 1 : shift,
                gap + (operand == Operand::kOther ? gap_of_other : 0)};
    }
    std::size_t shift_of(Operand operand) const { return shifted == operand ? sizeof(float) : 0; }
};

struct ColumnsOnHost {
    std::vector<float> x, other, scale, bias;

    explicit ColumnsOnHost(const ColumnsCase& test)
        : x(gaussian_of(test.type, test.rows * test.size, 1)),
          other(gaussian_of(test.type, test.rows * test.size, 2)),
          scale(gaussian(test.size, 3)),
          bias(gaussian(test.size, 4)) {}
};

enum class Over : uint8_t { kNothing, kX, kStart };

std::vector<float> scaled_on_device(const ColumnsCase& test, const ColumnsOnHost& host,
                                    Over over = Over::kNothing) {
    const auto access = [&](Over which) { return over == which ? Access::kOutput : Access::kInput; };
    const DeviceRows x(test.layout(Operand::kFirst), host.x, access(Over::kX)),
        start(test.layout(Operand::kOther), host.other, access(Over::kStart)),
        apart(test.layout(Operand::kResult));
    const DeviceArray<float> scale(host.scale, Access::kInput, test.shift_of(Operand::kScale)),
        bias(host.bias, Access::kInput, test.shift_of(Operand::kBias));
    const DeviceRows& y = over == Over::kX ? x : over == Over::kStart ? start : apart;
    const int64_t stride = test.size + test.gap;
    device::scale_columns({.x = x.data(),
                           .x_stride = stride,
                           .scale = scale.data(),
                           .bias = test.has_bias ? bias.data() : nullptr,
                           .start = test.has_start ? start.data() : nullptr,
                           .start_stride = test.has_start ? stride + test.gap_of_other : 0,
                           .rows = test.rows,
                           .size = test.size,
                           .y = y.data(),
                           .y_stride = over == Over::kStart ? stride + test.gap_of_other : stride,
                           .type = test.type},
                          nullptr);
    return y.download();
}

struct ColumnSums {
    std::vector<float> scaled, sums;
};

ColumnSums gradient_on_device(const ColumnsCase& test, const ColumnsOnHost& host, bool in_place = false,
                              bool with_scaled = true) {
    const DeviceRows g(test.layout(Operand::kFirst), host.x, in_place ? Access::kOutput : Access::kInput),
        x(test.layout(Operand::kOther), host.other), apart(test.layout(Operand::kResult));
    const DeviceArray<float> scale(host.scale, Access::kInput, test.shift_of(Operand::kScale));
    const auto count = static_cast<std::size_t>(column_sum_parts(test.rows) * test.size);
    const DeviceArray<float> parts(std::vector<float>(count, -7.0f), Access::kOutput);
    const DeviceArray<float> sums(std::vector<float>(static_cast<std::size_t>(test.size), -7.0f),
                                  Access::kOutput);
    const DeviceRows& scaled = in_place ? g : apart;
    const int64_t stride = test.size + test.gap;
    device::scale_columns_backward({.g = g.data(),
                                    .g_stride = stride,
                                    .x = x.data(),
                                    .x_stride = stride + test.gap_of_other,
                                    .scale = with_scaled ? scale.data() : nullptr,
                                    .rows = test.rows,
                                    .size = test.size,
                                    .scaled = with_scaled ? scaled.data() : nullptr,
                                    .scaled_stride = with_scaled ? stride : 0,
                                    .parts = parts.data(),
                                    .sums = sums.data(),
                                    .type = test.type},
                                   nullptr);
    return {scaled.download(), sums.download()};
}

std::vector<float> scaled_one_by_one(const ColumnsCase& test, const ColumnsOnHost& host) {
    std::vector<float> out(host.x.size());
    for (std::size_t i = 0; i < out.size(); ++i) {
        const std::size_t column = i % static_cast<std::size_t>(test.size);
        float value = host.scale[column] * host.x[i];
        if (test.has_bias) value += host.bias[column];
        if (test.has_start) value += host.other[i];
        out[i] = round_element(value, test.type);
    }
    return out;
}

void expect_sums(const ColumnsCase& test, const ColumnsOnHost& host, const std::vector<float>& found) {
    for (int64_t column = 0; column < test.size; ++column) {
        double exact = 0.0, size = 0.0;
        for (int64_t row = 0; row < test.rows; ++row) {
            const auto i = static_cast<std::size_t>(row * test.size + column);
            const double term = static_cast<double>(host.x[i]) * static_cast<double>(host.other[i]);
            exact += term;
            size += std::abs(term);
        }
        // Eight terms a thread, 32 threads one after another, one rounding at the end.
        ASSERT_NEAR(found[static_cast<std::size_t>(column)], exact, 42 * kRounding * size) << column;
    }
}

TEST_F(DeviceColumns, every_size_and_type_is_the_formula_rounded_once) {
    for (FloatType type : kFloatTypes) {
        for (int64_t size : kPieceSizes) {
            const auto any = static_cast<int>(size % 3);
            const ColumnsCase test{3,        size,    type, size % 2 == 0 ? 0 : 5, any == 2 ? 1 : 0,
                                   any != 0, any != 1};
            const ColumnsOnHost host(test);
            with_some_schedule(size, [&] {
                const auto expected = bits_of(scaled_one_by_one(test, host));
                ASSERT_EQ(bits_of(scaled_on_device(test, host)), expected) << size;
                ASSERT_EQ(bits_of(scaled_on_device(test, host, Over::kX)), expected) << size;
                ASSERT_EQ(bits_of(scaled_on_device(test, host, Over::kStart)), expected) << size;
            });
        }
    }
}

TEST_F(DeviceColumns, gradients_of_every_size_and_type) {
    for (FloatType type : kFloatTypes) {
        for (int64_t size : kPieceSizes) {
            const ColumnsCase test{3, size, type, size % 2 == 0 ? 0 : 5, static_cast<int>(size % 3) / 2};
            const ColumnsOnHost host(test);
            with_some_schedule(size, [&] {
                const ColumnSums found = gradient_on_device(test, host);
                for (std::size_t i = 0; i < found.scaled.size(); ++i) {
                    const float scale = host.scale[i % static_cast<std::size_t>(size)];
                    ASSERT_EQ(found.scaled[i], round_element(scale * host.x[i], type)) << i;
                }
                expect_sums(test, host, found.sums);
                const ColumnSums again = gradient_on_device(test, host, true);
                ASSERT_EQ(again.scaled, found.scaled);
                ASSERT_EQ(again.sums, found.sums);
                ASSERT_EQ(gradient_on_device(test, host, false, false).sums, found.sums);
            });
        }
    }
}

TEST_F(DeviceColumns, many_rows_are_summed_in_one_order_under_every_schedule) {
    for (int64_t rows : {31, 32, 33, 255, 256, 257, 700}) {
        const ColumnsCase test{rows, 72, FloatType::kBF16};
        const ColumnsOnHost host(test);
        const std::vector<float> first = gradient_on_device(test, host).sums;
        expect_sums(test, host, first);
        if (rows == 257) {
            for_each_schedule([&] { ASSERT_EQ(gradient_on_device(test, host).sums, first); });
        }
    }
}

TEST_F(DeviceColumns, no_rows_give_sums_of_zero) {
    const ColumnsCase test{0, 9};
    const ColumnsOnHost host(test);
    EXPECT_EQ(gradient_on_device(test, host).sums, std::vector<float>(9, 0.0f));
    EXPECT_TRUE(scaled_on_device(test, host).empty());
}

TEST_F(DeviceColumns, aligned_rows_take_wide_accesses) {
    if (device_vector_accesses() < 0)
        GTEST_SKIP() << "nobody counts the accesses of a " << device_name() << " device";
    const auto accesses = [](const ColumnsCase& test) {
        return vector_accesses_of([&] { scaled_on_device(test, ColumnsOnHost(test)); });
    };
    // Of each piece: x, start and y in one access, the factors and biases in two.
    EXPECT_EQ(accesses({2, 64, FloatType::kBF16}), 2 * 8 * (3 + 4));
    EXPECT_EQ(accesses({2, 64, FloatType::kBF16, 0, 1}), 0);
    EXPECT_EQ(accesses({2, 64, FloatType::kBF16, 4}), 0);
    // Backward: g, x and what it writes in one, the factors once a thread in two.
    const auto backward = [](const ColumnsCase& test) {
        return vector_accesses_of([&] { gradient_on_device(test, ColumnsOnHost(test)); });
    };
    EXPECT_GE(backward({2, 64, FloatType::kBF16}), 2 * 8 * 3 + 8 * 2);
    EXPECT_EQ(backward({2, 64, FloatType::kBF16, 0, 1}), 0);
}

TEST_F(DeviceColumns, one_operand_out_of_place_is_enough_for_narrow_accesses) {
    for (const Operand shifted :
         {Operand::kFirst, Operand::kOther, Operand::kScale, Operand::kBias, Operand::kResult}) {
        ColumnsCase test{.rows = 2, .size = 64, .type = FloatType::kF32};
        test.shifted = shifted;
        const ColumnsOnHost host(test);
        EXPECT_EQ(bits_of(scaled_on_device(test, host)), bits_of(scaled_one_by_one(test, host)));
        expect_sums(test, host, gradient_on_device(test, host).sums);
        if (shifted != Operand::kResult)
            expect_sums(test, host, gradient_on_device(test, host, false, false).sums);
    }
}

TEST_F(DeviceColumns, rows_may_touch_each_other_and_be_empty) {
    const ColumnsCase test{.rows = 3, .size = 9, .gap_of_other = 0};
    const ColumnsOnHost host(test);
    EXPECT_EQ(bits_of(scaled_on_device(test, host)), bits_of(scaled_one_by_one(test, host)));
    expect_sums(test, host, gradient_on_device(test, host).sums);
    const ColumnsCase empty{.rows = 3, .size = 0};
    EXPECT_TRUE(scaled_on_device(empty, ColumnsOnHost(empty)).empty());
    EXPECT_TRUE(gradient_on_device(empty, ColumnsOnHost(empty)).sums.empty());
}

TEST(DeviceColumnsArguments, impossible_ones_throw) {
    alignas(16) float values[16] = {};
    const ScaleColumnsParams good{values, 4, values, nullptr, nullptr, 0, 1, 4, values, 4, FloatType::kF32};
    const auto refused = [&](auto change) {
        ScaleColumnsParams params = good;
        change(params);
        EXPECT_THROW(device::scale_columns(params, nullptr), std::invalid_argument);
    };
    refused([](ScaleColumnsParams& params) { params.rows = -1; });
    refused([](ScaleColumnsParams& params) { params.size = -1; });
    refused([](ScaleColumnsParams& params) { params.x_stride = 3; });
    refused([](ScaleColumnsParams& params) { params.y_stride = 3; });
    refused([&](ScaleColumnsParams& params) { params.start = values; });
    refused([&](ScaleColumnsParams& params) { params.x = reinterpret_cast<char*>(values) + 2; });
    const ScaleColumnsBackwardParams fine{values, 4,       values, 4,      values, 1,
                                          4,      nullptr, 0,      values, values, FloatType::kF32};
    const auto refused_backward = [&](auto change) {
        ScaleColumnsBackwardParams params = fine;
        change(params);
        EXPECT_THROW(device::scale_columns_backward(params, nullptr), std::invalid_argument);
    };
    refused_backward([](ScaleColumnsBackwardParams& params) { params.size = -1; });
    refused_backward([](ScaleColumnsBackwardParams& params) { params.rows = -1; });
    refused_backward([](ScaleColumnsBackwardParams& params) { params.x_stride = 3; });
    refused_backward([](ScaleColumnsBackwardParams& params) { params.g_stride = 3; });
    refused_backward([&](ScaleColumnsBackwardParams& params) { params.scaled = values; });
    refused_backward([&](ScaleColumnsBackwardParams& params) {
        params.sums = reinterpret_cast<float*>(reinterpret_cast<char*>(values) + 1);
    });
    refused_backward([](ScaleColumnsBackwardParams& params) { params.rows = 65536 * kColumnSumRows; });
}

}  // namespace
}  // namespace qlora::kernels
