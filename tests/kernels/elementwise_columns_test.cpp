#include <stdexcept>

#include "kernels/elementwise_rows.h"

namespace qlora::kernels::cpu {
namespace {

constexpr int64_t kRows = 5;

struct ColumnCase {
    int64_t size;
    bool has_bias = true, has_start = true;
    int64_t gap = 0;  ///< values between rows
};

struct ColumnValues {
    std::vector<float> x, scale, bias, start;
};

ColumnValues column_values(int64_t size, uint32_t seed, bool wild = false) {
    const auto values = [&](int64_t n, uint32_t more) {
        return wild ? wild_values(n, seed + more) : gaussian(n, seed + more);
    };
    return {values(kRows * size, 0), values(size, 1), values(size, 2), values(kRows * size, 3)};
}

/// Rows `size + gap` apart.
std::vector<float> spread(const std::vector<float>& rows, int64_t size, int64_t gap) {
    std::vector<float> out;
    for (int64_t row = 0; row * size < static_cast<int64_t>(rows.size()); ++row) {
        const std::vector<float> values = part(rows, row * size, size);
        out.insert(out.end(), values.begin(), values.end());
        out.insert(out.end(), static_cast<size_t>(gap), 77.0f);
    }
    return out;
}

std::vector<float> scaled(const ColumnCase& test, const ColumnValues& values) {
    const int64_t stride = test.size + test.gap;
    Guarded x(spread(values.x, test.size, test.gap)), y(spread(values.start, test.size, test.gap));
    scale_columns({x.data(), kRows, test.size, stride}, values.scale.data(),
                  test.has_bias ? values.bias.data() : nullptr, test.has_start ? y.data() : nullptr, stride,
                  y.data(), stride);
    EXPECT_TRUE(x.intact() && y.intact());
    std::vector<float> out;
    for (int64_t row = 0; row < kRows; ++row) {
        out = joined(out, part(y.values(), row * stride, test.size));
        for (float value : part(y.values(), row * stride + test.size, test.gap)) EXPECT_EQ(value, 77.0f);
    }
    return out;
}

struct ColumnGradient {
    std::vector<float> scaled;
    std::vector<double> sums;
};

/// Columns [0, cut) and the others apart.
ColumnGradient gradient(int64_t size, const ColumnValues& values, int64_t cut = 0) {
    Guarded out(kRows * size);
    ColumnGradient found{.scaled = {}, .sums = std::vector<double>(static_cast<size_t>(size), 0.5)};
    for (const auto& [first, count] : {std::pair{int64_t{0}, cut}, std::pair{cut, size - cut}}) {
        scale_columns_backward({values.x.data() + first, kRows, count, size}, values.start.data() + first,
                               size, values.scale.data() + first, out.data() + first, size,
                               found.sums.data() + first);
    }
    EXPECT_TRUE(out.intact());
    found.scaled = out.values();
    return found;
}

class ScaleColumns : public OnEveryPath {};

TEST_P(ScaleColumns, is_a_loop_over_the_elements) {
    for (int64_t size : row_sizes()) {
        for (const ColumnCase& test : {ColumnCase{size}, ColumnCase{size, false, true, 3},
                                       ColumnCase{size, true, false}, ColumnCase{size, false, false, 8}}) {
            const ColumnValues values = column_values(size, static_cast<uint32_t>(size), size % 2 == 1);
            const std::vector<float> found = scaled(test, values);
            std::vector<float> expected(values.x.size());
            for (size_t i = 0; i < expected.size(); ++i) {
                const size_t column = i % static_cast<size_t>(size);
                expected[i] = values.scale[column] * values.x[i];
                if (test.has_bias) expected[i] += values.bias[column];
                if (test.has_start) expected[i] += values.start[i];
            }
            ASSERT_EQ(bits_of(found), bits_of(expected)) << size;
        }
    }
}

TEST_P(ScaleColumns, the_gradients_are_a_loop_over_four_rows_at_a_time) {
    for (int64_t size : row_sizes()) {
        const ColumnValues values = column_values(size, static_cast<uint32_t>(size));
        const ColumnGradient found = gradient(size, values);
        for (int64_t column = 0; column < size; ++column) {
            float products[kRows];
            for (int64_t row = 0; row < kRows; ++row) {
                const auto i = static_cast<size_t>(row * size + column);
                products[row] = values.x[i] * values.start[i];
                ASSERT_EQ(found.scaled[i], values.scale[static_cast<size_t>(column)] * values.x[i]);
            }
            // Four rows in fp32, the fifth for itself.
            double sum = 0.5;
            sum += static_cast<double>((products[0] + products[1]) + (products[2] + products[3]));
            sum += static_cast<double>(products[4]);
            ASSERT_EQ(found.sums[static_cast<size_t>(column)], sum) << size << " " << column;
        }
        const ColumnGradient split = gradient(size, values, size / 3);
        ASSERT_EQ(split.sums, found.sums);
        ASSERT_EQ(split.scaled, found.scaled);
    }
}

TEST_P(ScaleColumns, sums_alone_leave_the_rest) {
    const ColumnValues values = column_values(21, 4);
    std::vector<double> sums(21, 0.5);
    scale_columns_backward({values.x.data(), kRows, 21, 21}, values.start.data(), 21, nullptr, nullptr, 0,
                           sums.data());
    EXPECT_EQ(sums, gradient(21, values).sums);
}

INSTANTIATE_TEST_SUITE_P(Paths, ScaleColumns, testing::ValuesIn(supported_sets()), set_name);

TEST(ScaleColumnsArguments, negative_sizes_throw) {
    float value = 0.0f;
    double sum = 0.0;
    EXPECT_THROW(scale_columns({&value, -1, 1, 1}, &value, nullptr, nullptr, 0, &value, 1),
                 std::invalid_argument);
    EXPECT_THROW(scale_columns_backward({&value, 1, -1, 1}, &value, 1, nullptr, nullptr, 0, &sum),
                 std::invalid_argument);
}

}  // namespace
}  // namespace qlora::kernels::cpu
