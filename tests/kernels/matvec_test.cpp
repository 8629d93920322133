#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "kernels/elementwise_rows.h"
#include "kernels/test_values.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/kernels.h"

namespace qlora::kernels::cpu {
namespace {

class OnEverySet : public testing::TestWithParam<InstructionSet> {};
INSTANTIATE_TEST_SUITE_P(Sets, OnEverySet, testing::ValuesIn(supported_sets()), set_name);

std::vector<float> uniform(int64_t count, uint32_t seed) {
    std::mt19937 engine(seed);
    std::vector<float> out(static_cast<size_t>(count));
    for (float& value : out) value = static_cast<float>(engine() % 20001) / 10000.0f - 1.0f;
    return out;
}

/// What a sum of `size` products of values below 1 in four times eight lanes may be off by: each product and
/// each of the at most size / 32 + 5 additions a lane's terms pass through rounds once.
double bound_of(int64_t size) {
    return static_cast<double>(size) * (static_cast<double>(size) / 32 + 6) * kRounding;
}

TEST_P(OnEverySet, dot_rows_equal_the_sum_in_double) {
    const UseInstructionSet use(GetParam());
    for (const int64_t size : row_sizes()) {
        for (const size_t shift : {size_t{0}, size_t{1}}) {
            Guarded x(uniform(3 * size, 1), shift), w(uniform(size, 2), shift);
            Guarded y(3 * 2, shift);
            dot_rows({x.data(), 3, size, size}, w.data(), y.data(), 2);
            for (int64_t row = 0; row < 3; ++row) {
                double exact = 0.0;
                for (int64_t i = 0; i < size; ++i) exact += double{x.data()[row * size + i]} * w.data()[i];
                EXPECT_NEAR(y.data()[2 * row], exact, bound_of(size)) << size;
                EXPECT_EQ(y.data()[2 * row + 1], -7.0f) << "between the strides";
            }
            EXPECT_TRUE(y.intact());
        }
    }
}

TEST_P(OnEverySet, dot_rows_give_the_bits_of_the_portable_path) {
    for (const int64_t size : row_sizes()) {
        const std::vector<float> x = uniform(size, 3), w = uniform(size, 4);
        float portable = 0.0f, here = 0.0f;
        {
            const UseInstructionSet use(InstructionSet::kPortable);
            dot_rows({x.data(), 1, size, size}, w.data(), &portable, 1);
        }
        const UseInstructionSet use(GetParam());
        dot_rows({x.data(), 1, size, size}, w.data(), &here, 1);
        EXPECT_EQ(portable, here) << size;
    }
}

TEST_P(OnEverySet, rows_apart_are_multiplied_as_rows_side_by_side) {
    const UseInstructionSet use(GetParam());
    const std::vector<float> x = uniform(3 * 100, 6), w = uniform(70, 7);
    std::vector<float> y(3), alone(3);
    dot_rows({x.data(), 3, 70, 100}, w.data(), y.data(), 1);
    for (size_t row = 0; row < 3; ++row)
        dot_rows({x.data() + 100 * row, 1, 70, 70}, w.data(), &alone[row], 1);
    EXPECT_EQ(y, alone);
}

TEST_P(OnEverySet, weighed_rows_are_added_one_after_another) {
    const UseInstructionSet use(GetParam());
    for (const int64_t size : row_sizes()) {
        for (const int64_t rows : {0, 1, 5}) {
            const int64_t stride = size + 3;
            Guarded x(uniform(rows * stride, 8), static_cast<size_t>(size % 2)), y(size);
            const std::vector<float> weights = uniform(rows, 9);
            weigh_rows({x.data(), rows, size, stride}, weights.data(), y.data());
            EXPECT_TRUE(y.intact());
            for (int64_t i = 0; i < size; ++i) {
                volatile float sum = 0.0f;  // no fused multiply-add
                for (int64_t row = 0; row < rows; ++row) {
                    volatile float term = weights[static_cast<size_t>(row)] * x.data()[row * stride + i];
                    sum = sum + term;
                }
                EXPECT_EQ(y.data()[i], sum) << size << " " << rows << " " << i;
            }
        }
    }
}

TEST_P(OnEverySet, all_values_of_16_bits_are_widened_exactly) {
    const UseInstructionSet use(GetParam());
    // At odd addresses, and with a tail that does not fill a register.
    std::vector<char> bytes(1 + 2 * 65536);
    for (uint32_t bits = 0; bits < 65536; ++bits) {
        const auto value = static_cast<uint16_t>(bits);
        std::memcpy(bytes.data() + 1 + 2 * bits, &value, sizeof value);
    }
    for (const FloatType type : {FloatType::kF16, FloatType::kBF16}) {
        Guarded out(65535 - 3);
        widen(bytes.data() + 1, type, 3, 65535 - 3, out.data());
        EXPECT_TRUE(out.intact());
        for (uint32_t bits = 3; bits < 65535; ++bits) {
            const auto value = static_cast<uint16_t>(bits);
            const float exact = type == FloatType::kF16 ? f16_to_float(value) : bf16_to_float(value);
            EXPECT_EQ(float_bits(out.data()[bits - 3]), float_bits(exact)) << bits;
        }
    }
    const std::vector<float> values = uniform(19, 10);
    Guarded out(17);
    widen(values.data(), FloatType::kF32, 2, 17, out.data());
    EXPECT_TRUE(out.intact());
    EXPECT_EQ(out.values(), std::vector<float>(values.begin() + 2, values.end()));
}

/// A random matrix in NF4 with scales of its own.
struct PackedMatrix {
    PackedMatrix(int64_t rows, int64_t columns)
        : outputs(rows), inputs(columns), values(uniform(rows * columns, 5)) {
        const int64_t n = rows * columns;
        packed.resize(static_cast<size_t>(packed_bytes(n)));
        absmax.resize(static_cast<size_t>(block_count(n, 64)));
        quantize_blockwise_nf4({values.data(), FloatType::kF32, n, 64, packed.data(), absmax.data()});
    }
    Nf4View view() const {
        return {packed.data(), {absmax.data(), nullptr, nullptr, 0.0f}, outputs * inputs, 64};
    }
    /// The weights as `type` holds them.
    std::vector<float> dequantized(FloatType type) const {
        std::vector<float> out(values.size());
        dequantize_blockwise_nf4(view(), out.data(), FloatType::kF32);
        for (float& value : out) {
            if (type == FloatType::kF16) value = f16_to_float(float_to_f16(value));
            if (type == FloatType::kBF16) value = bf16_to_float(float_to_bf16(value));
        }
        return out;
    }

    int64_t outputs, inputs;
    std::vector<float> values, absmax;
    std::vector<uint8_t> packed;
};

TEST_P(OnEverySet, a_matvec_is_dot_rows_with_the_dequantized_weights) {
    const UseInstructionSet use(GetParam());
    // Rows of whole blocks, of blocks that cross row ends, and of an odd length.
    for (const auto& [outputs, inputs] : {std::pair{5, 128}, {7, 96}, {9, 33}, {3, 1}, {1, 576}}) {
        const PackedMatrix matrix(outputs, inputs);
        const std::vector<float> x = uniform(4 * inputs, 6);
        for (const FloatType type : {FloatType::kF32, FloatType::kF16, FloatType::kBF16}) {
            const std::vector<float> weights = matrix.dequantized(type);
            std::vector<float> expected(static_cast<size_t>(4 * outputs));
            for (int64_t o = 0; o < outputs; ++o) {
                dot_rows({x.data(), 4, inputs, inputs}, weights.data() + o * inputs, expected.data() + o,
                         outputs);
            }
            std::vector<float> y(expected.size(), -7.0f);
            const Matvec product{type, outputs, inputs, x.data(), 4, y.data()};
            matvec_nf4(matrix.view(), product, 0, outputs / 2);
            matvec_nf4(matrix.view(), product, outputs / 2, outputs);
            EXPECT_EQ(bits_of(y), bits_of(expected)) << outputs << " x " << inputs;
        }
    }
}

TEST_P(OnEverySet, a_matvec_with_dense_weights_is_dot_rows_with_their_values) {
    const UseInstructionSet use(GetParam());
    // The last: more weights than are widened at once.
    for (const auto& [outputs, inputs] : {std::pair{5, 128}, {9, 33}, {3, 1}, {40, 576}, {2, 5000}}) {
        const std::vector<float> x = uniform(3 * inputs, 6);
        for (const FloatType type : {FloatType::kF32, FloatType::kF16, FloatType::kBF16}) {
            for (const size_t shift : {size_t{0}, size_t{1}}) {
                const std::vector<uint8_t> stored =
                    encode_elements(uniform(outputs * inputs, 7), type, shift);
                const std::vector<uint8_t> aligned(stored.begin() + static_cast<int64_t>(shift),
                                                   stored.end());
                const std::vector<float> weights = decode_elements(aligned, type);
                std::vector<float> expected(static_cast<size_t>(3 * outputs));
                for (int64_t o = 0; o < outputs; ++o) {
                    dot_rows({x.data(), 3, inputs, inputs}, weights.data() + o * inputs, expected.data() + o,
                             outputs);
                }
                std::vector<float> y(expected.size(), -7.0f);
                const Matvec product{type, outputs, inputs, x.data(), 3, y.data()};
                matvec_dense(stored.data() + shift, product, 0, outputs / 2);
                matvec_dense(stored.data() + shift, product, outputs / 2, outputs);
                EXPECT_EQ(bits_of(y), bits_of(expected)) << outputs << " x " << inputs;
            }
        }
    }
    float nothing = 0.0f;
    EXPECT_THROW(matvec_dense(&nothing, {FloatType::kF32, 1, 0, &nothing, 1, &nothing}, 0, 1),
                 std::invalid_argument);
    EXPECT_THROW(matvec_dense(&nothing, {FloatType::kF32, 1, 1, &nothing, 1, &nothing}, 0, 2),
                 std::invalid_argument);
}

TEST(Matvec, refuses_what_does_not_fit) {
    const PackedMatrix matrix(4, 64);
    std::vector<float> x(64), y(4);
    Matvec product{FloatType::kF32, 4, 64, x.data(), 1, y.data()};
    EXPECT_THROW(matvec_nf4(matrix.view(), product, 0, 5), std::invalid_argument);
    EXPECT_THROW(matvec_nf4(matrix.view(), product, 3, 2), std::invalid_argument);
    product.inputs = 63;
    EXPECT_THROW(matvec_nf4(matrix.view(), product, 0, 4), std::invalid_argument);
    EXPECT_THROW(dot_rows({x.data(), -1, 4, 4}, x.data(), y.data(), 1), std::invalid_argument);
}

}  // namespace
}  // namespace qlora::kernels::cpu
