#include <stdexcept>

#include "kernels/device/device_rows.h"
#include "qlora/kernels/cuda_layer.h"
#include "qlora/kernels/elementwise.h"

namespace qlora::kernels {
namespace {

class DeviceColumns : public OnDevice {};

struct ColumnsCase {
    int64_t rows, size;
    FloatType type = FloatType::kF32;
    int64_t gap = 0;
    int shift = 0;
    bool has_bias = true, has_start = true;

    RowsLayout layout(int64_t more_gap = 0) const { return {rows, size, type, shift, gap + more_gap}; }
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
    const DeviceRows x(test.layout(), host.x, access(Over::kX)),
        start(test.layout(8), host.other, access(Over::kStart)), apart(test.layout());
    const DeviceArray<float> scale(host.scale), bias(host.bias);
    const DeviceRows& y = over == Over::kX ? x : over == Over::kStart ? start : apart;
    const int64_t stride = test.layout().stride();
    device::scale_columns({.x = x.data(),
                           .x_stride = stride,
                           .scale = scale.data(),
                           .bias = test.has_bias ? bias.data() : nullptr,
                           .start = test.has_start ? start.data() : nullptr,
                           .start_stride = test.has_start ? stride + 8 : 0,
                           .rows = test.rows,
                           .size = test.size,
                           .y = y.data(),
                           .y_stride = over == Over::kStart ? stride + 8 : stride,
                           .type = test.type},
                          nullptr);
    return y.download();
}

struct ColumnSums {
    std::vector<float> scaled, sums;
};

ColumnSums gradient_on_device(const ColumnsCase& test, const ColumnsOnHost& host, bool in_place = false,
                              bool with_scaled = true) {
    const DeviceRows g(test.layout(), host.x, in_place ? Access::kOutput : Access::kInput),
        x(test.layout(8), host.other), apart(test.layout());
    const DeviceArray<float> scale(host.scale);
    const auto count = static_cast<std::size_t>(column_sum_parts(test.rows) * test.size);
    const DeviceArray<float> parts(std::vector<float>(count, -7.0f), Access::kOutput);
    const DeviceArray<float> sums(std::vector<float>(static_cast<std::size_t>(test.size), -7.0f),
                                  Access::kOutput);
    const DeviceRows& scaled = in_place ? g : apart;
    const int64_t stride = test.layout().stride();
    device::scale_columns_backward({.g = g.data(),
                                    .g_stride = stride,
                                    .x = x.data(),
                                    .x_stride = stride + 8,
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
    refused_backward([](ScaleColumnsBackwardParams& params) { params.g_stride = 3; });
    refused_backward([&](ScaleColumnsBackwardParams& params) { params.scaled = values; });
    refused_backward([&](ScaleColumnsBackwardParams& params) {
        params.sums = reinterpret_cast<float*>(reinterpret_cast<char*>(values) + 1);
    });
    refused_backward([](ScaleColumnsBackwardParams& params) { params.rows = 65536 * kColumnSumRows; });
}

}  // namespace
}  // namespace qlora::kernels
