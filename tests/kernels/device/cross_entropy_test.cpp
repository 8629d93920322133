#include <numeric>
#include <stdexcept>

#include "kernels/device/logits_rows.h"

namespace qlora::kernels {
namespace {

/// Of storing a value of that size; the last place of denormal exponentials with it.
double storage_error(FloatType type, double value) {
    if (type == FloatType::kF16) return std::abs(value) * 0x1p-11 + 0x1p-25;
    if (type == FloatType::kBF16) return std::abs(value) * 0x1p-8 + 0x1p-134;
    return 0x1p-148;
}

class DeviceCrossEntropy : public OnDevice {};

/// Row `number` against softmax - onehot in double.
void expect_gradient(const Rows& rows, int64_t number, const std::vector<float>& gradient) {
    const std::vector<float> own = rows.row(number);
    const Exact e = exact(own);
    double total = 0.0;
    for (int64_t i = 0; i < rows.columns(); ++i) {
        const double below_max = e.max - own[static_cast<std::size_t>(i)];
        const double p = std::exp(-below_max) / e.sum;
        const double hot = i == rows.targets[static_cast<std::size_t>(number)] ? 1.0 : 0.0;
        const double found = gradient[static_cast<std::size_t>(number * rows.columns() + i)];
        total += found;
        // x - max is rounded, which moves e^(x - max) by that error; the exponential, its scale and the
        // product add 4 roundings, the sum 1e-6, the subtraction of 1 another of a value below 1.
        const double tolerance =
            p * ((below_max + 4) * kRounding + 1e-6) + hot * kRounding + storage_error(rows.type, p - hot);
        ASSERT_NEAR(found, p - hot, tolerance) << rows.columns() << " " << i;
    }
    // Probabilities of the sum 1, each within 2e-6 of itself, less 1: and half a unit of the type for each.
    const double storage = rows.type == FloatType::kF32 ? 0.0 : storage_error(rows.type, 2.0);
    ASSERT_NEAR(
        total, 0.0,
        2e-6 + storage +
            static_cast<double>(rows.columns()) * 0x1p-25 * (rows.type == FloatType::kF16 ? 1.0 : 0.0));
}

TEST_F(DeviceCrossEntropy, FollowsTheFormulaInDouble) {
    for (FloatType type : kFloatTypes) {
        for (int64_t columns : kColumnCounts) {
            const int64_t last = columns - 1;
            Rows rows{gaussian(2 * columns, 1, 5.0f), {0, last}, type, static_cast<int>(columns % 8)};
            if (columns < 1000) {
                rows.logits = gaussian(5 * columns, 2, 5.0f);
                rows.targets = {last, 0, last / 2, last / 3, last};
            }
            with_some_schedule(columns, [&] {
                const CrossEntropy found = cross_entropy(rows);
                const std::vector<float> gradient = decode_elements(found.gradient, type);
                for (std::size_t row = 0; row < rows.targets.size(); ++row) {
                    const std::vector<float> own = rows.row(static_cast<int64_t>(row));
                    const double loss =
                        exact(own).log_sum() - own[static_cast<std::size_t>(rows.targets[row])];
                    // The contract's bound of the sum is the bound of its logarithm.
                    ASSERT_NEAR(found.losses[row], loss, 1e-6) << columns;
                    expect_gradient(rows, static_cast<int64_t>(row), gradient);
                }
            });
        }
    }
}

TEST_F(DeviceCrossEntropy, AgreesWithTheCpu) {
    for (int64_t columns : kColumnCounts) {
        const Rows rows{gaussian(3 * columns, 3, 4.0f), {0, columns - 1, columns / 2}};
        std::vector<float> expected = rows.logits;
        std::vector<double> losses(rows.targets.size());
        cpu::softmax_cross_entropy(expected.data(), rows.targets.data(), rows.rows(), columns, losses.data());
        const CrossEntropy found = cross_entropy(rows);
        const std::vector<float> gradient = decode_elements(found.gradient, FloatType::kF32);
        for (std::size_t row = 0; row < losses.size(); ++row) {
            // Each sum is within 1e-6.
            ASSERT_NEAR(found.losses[row], losses[row], 2e-6) << columns;
        }
        for (std::size_t i = 0; i < expected.size(); ++i) {
            const int64_t row = static_cast<int64_t>(i) / columns;
            const bool hot = static_cast<int64_t>(i) % columns == rows.targets[static_cast<std::size_t>(row)];
            const double p = double{expected[i]} + (hot ? 1.0 : 0.0);
            // Where the CPU has one block of 1024 the exponentials are the same bits: the sums and three
            // roundings each stay. Else its are of another maximum, up to 40 lower, and a scale makes up.
            const double roundings = columns <= 1024 ? 6 : 2 * 40 + 14;
            ASSERT_NEAR(gradient[i], expected[i],
                        p * (2e-6 + roundings * kRounding) + 2 * hot * kRounding + 0x1p-148)
                << columns << " " << i;
        }
    }
}

TEST_F(DeviceCrossEntropy, SixteenBitsAreTheResultInFp32RoundedOnce) {
    for (FloatType type : {FloatType::kF16, FloatType::kBF16}) {
        for (int64_t columns : {1, 7, 64, 257, 1000, 9000}) {
            const Rows rows{gaussian(2 * columns, 4, 3.0f), {columns / 3, columns - 1}, type};
            const Rows wide{round_elements(rows.logits, type), rows.targets};
            const CrossEntropy found = cross_entropy(rows), in_fp32 = cross_entropy(wide);
            EXPECT_EQ(found.gradient,
                      encode_elements(decode_elements(in_fp32.gradient, FloatType::kF32), type));
            EXPECT_EQ(found.losses, in_fp32.losses);
        }
    }
}

TEST_F(DeviceCrossEntropy, ACurveGivesTheBitsOfCurvedLogitsAndItsOwnGradient) {
    for (FloatType type : kFloatTypes) {
        for (const LogitCurve& curve : kCurves) {
            for (int64_t columns : {1, 7, 33, 257, 1000, 9001}) {
                const Rows rows{gaussian(2 * columns, 4, 3.0f),
                                {columns / 3, columns - 1},
                                type,
                                static_cast<int>(columns % 8),
                                curve};
                const CrossEntropy found = cross_entropy(rows), seen = cross_entropy(without_curve(rows));
                ASSERT_EQ(found.losses, seen.losses) << columns;
                std::vector<float> expected = decode_elements(seen.gradient, type);
                for (std::size_t i = 0; i < expected.size(); ++i) {
                    const float logit = round_element(rows.logits[i], type);
                    const float tanh = curved_element(logit, curve, type).tanh;
                    expected[i] = curve_gradient_element(expected[i], tanh, curve, type);
                }
                ASSERT_EQ(found.gradient, encode_elements(expected, type)) << columns;
            }
        }
    }
}

TEST_F(DeviceCrossEntropy, ASoftcapBoundsEndlessLogits) {
    for (FloatType type : kFloatTypes) {
        for (const LogitCurve& curve : {kCurves[1], kCurves[2]}) {
            for (int64_t columns : {40, 41, 9001}) {
                const auto count = static_cast<std::size_t>(columns);
                Rows rows{gaussian(2 * columns, 4, 3.0f), {1, 2}, type, 0, curve};
                rows.logits[7] = -kInfinity;
                rows.logits[count - 1] = 1e30f;  // infinite in float16
                const CrossEntropy found = cross_entropy(rows);
                ASSERT_EQ(found.losses, cross_entropy(without_curve(rows)).losses);
                EXPECT_TRUE(std::isfinite(found.losses[0]));
                const std::vector<float> gradient = decode_elements(found.gradient, type);
                EXPECT_EQ(gradient[7], 0.0f);  // the curve is flat there
                EXPECT_EQ(gradient[count - 1], 0.0f);
                EXPECT_NE(gradient[1], 0.0f);

                rows.logits[9] = kNan;
                const CrossEntropy broken = cross_entropy(rows);
                EXPECT_TRUE(std::isnan(broken.losses[0]));
                EXPECT_EQ(broken.losses[1], found.losses[1]);
                const std::vector<float> other = decode_elements(broken.gradient, type);
                for (std::size_t i = 0; i < other.size(); ++i) {
                    ASSERT_TRUE(i < count ? std::isnan(other[i]) : other[i] == gradient[i]) << i;
                }
            }
        }
    }
}

TEST_F(DeviceCrossEntropy, EveryMisalignmentGivesTheSameBits) {
    for (FloatType type : kFloatTypes) {
        for (int64_t columns : {3, 21, 48, 257, 9001}) {
            Rows rows{gaussian(3 * columns, 5, 4.0f), {columns - 1, 0, columns / 2}, type};
            const CrossEntropy expected = cross_entropy(rows);
            for (rows.shift = 1; rows.shift <= 8; rows.shift += columns > 1000 ? 3 : 1) {
                ASSERT_EQ(cross_entropy(rows), expected) << columns << " " << rows.shift;
            }
        }
    }
}

TEST_F(DeviceCrossEntropy, RowsOneByOneGiveTheBitsOfTheWhole) {
    const int64_t columns = 1501;
    const Rows rows{gaussian(4 * columns, 1, 4.0f), {0, 1500, 700, 1499}, FloatType::kBF16};
    const CrossEntropy whole = cross_entropy(rows);
    for (std::size_t row = 0; row < rows.targets.size(); ++row) {
        const Rows own{rows.row(static_cast<int64_t>(row)), {rows.targets[row]}, rows.type};
        const CrossEntropy found = cross_entropy(own);
        const auto begin = whole.gradient.begin() + static_cast<int64_t>(row) * columns * 2;
        EXPECT_EQ(found.gradient, std::vector<uint8_t>(begin, begin + columns * 2));
        EXPECT_EQ(found.losses[0], whole.losses[row]);
    }
}

TEST_F(DeviceCrossEntropy, TheBitsAreTheSameUnderEverySchedule) {
    // One group more than threads, and less than a warp of groups.
    for (int64_t columns : {8209, 301}) {
        for (FloatType type : {FloatType::kF32, FloatType::kBF16}) {
            const Rows rows{gaussian(3 * columns, 6, 4.0f), {columns - 1, 0, 150}, type};
            const CrossEntropy expected = cross_entropy(rows);
            for_each_schedule([&] { ASSERT_EQ(cross_entropy(rows), expected) << columns; });
        }
    }
    const Rows curved{gaussian(2 * 301, 6, 4.0f), {300, 0}, FloatType::kBF16, 0, kCurves[2]};
    const CrossEntropy expected = cross_entropy(curved);
    for_each_schedule([&] { ASSERT_EQ(cross_entropy(curved), expected); });
}

TEST_F(DeviceCrossEntropy, SumOfEqualTermsStaysWithinTheContract) {
    // All but one are equal, so every rounding has the same sign: the worst case for a sum.
    const std::size_t columns = 200000;
    std::mt19937 engine(1);
    std::uniform_real_distribution<float> uniform(0.0f, 16.0f);
    for (std::size_t trial = 0; trial < 8; ++trial) {
        Rows rows{std::vector<float>(columns, -uniform(engine)), {0}};
        rows.logits[trial * 19999] = uniform(engine) * 0.1f;
        const double log_sum = exact(rows.logits).log_sum();
        const double error = cross_entropy(rows).losses[0] - (log_sum - rows.logits[0]);
        EXPECT_LT(std::abs(std::expm1(error)), 1e-6);
    }
}

TEST_F(DeviceCrossEntropy, GrowingMaximaLoseNothing) {
    // A thread's groups are 8192 columns apart: each raises its maximum, by little, by much or never.
    for (float step : {1e-6f, 1e-4f, 0.01f, -0.01f}) {
        Rows rows{std::vector<float>(65536 + 5), {65540}};
        for (std::size_t i = 0; i < rows.logits.size(); ++i) rows.logits[i] = step * static_cast<float>(i);
        const CrossEntropy found = cross_entropy(rows);
        const double loss = exact(rows.logits).log_sum() - rows.logits[65540];
        EXPECT_NEAR(std::expm1(found.losses[0] - loss), 0.0, 1e-6) << step;
        expect_gradient(rows, 0, decode_elements(found.gradient, FloatType::kF32));
    }
}

TEST_F(DeviceCrossEntropy, ExtremeLogitsGiveTheLimits) {
    for (int64_t columns : {3, 8, 40, 9000}) {
        for (float huge : {1e4f, 3e38f}) {
            Rows rows{std::vector<float>(static_cast<std::size_t>(columns), -huge), {2}};
            rows.logits[1] = huge;
            const CrossEntropy wrong = cross_entropy(rows);
            rows.targets = {1};
            const CrossEntropy right = cross_entropy(rows);
            std::vector<float> gradient = decode_elements(wrong.gradient, FloatType::kF32);
            EXPECT_EQ(wrong.losses[0], 2 * double{huge});
            EXPECT_EQ(gradient[1], 1.0f);
            EXPECT_EQ(gradient[2], -1.0f);
            EXPECT_EQ(std::accumulate(gradient.begin() + 3, gradient.end(), gradient[0]), 0.0f);
            gradient = decode_elements(right.gradient, FloatType::kF32);
            EXPECT_EQ(right.losses[0], 0.0);
            EXPECT_EQ(gradient, std::vector<float>(gradient.size(), 0.0f));
        }
    }
}

TEST_F(DeviceCrossEntropy, EqualLogitsShareEvenly) {
    for (float value : {0.0f, -3e38f, 65504.0f}) {
        for (int64_t columns : {1, 2, 64, 16384}) {  // powers of two, so that 1 / columns is exact
            const Rows rows{std::vector<float>(static_cast<std::size_t>(columns), value), {columns - 1}};
            const CrossEntropy found = cross_entropy(rows);
            const float share = 1.0f / static_cast<float>(columns);
            std::vector<float> expected(rows.logits.size(), share);
            expected.back() -= 1.0f;
            EXPECT_EQ(decode_elements(found.gradient, FloatType::kF32), expected);
            EXPECT_NEAR(found.losses[0], std::log(static_cast<double>(columns)), 1e-15);
        }
    }
}

TEST_F(DeviceCrossEntropy, MinusInfinityIsAProbabilityOfZero) {
    for (int64_t columns : {5, 13, 20000}) {  // of the last, most threads see nothing finite
        Rows rows{std::vector<float>(static_cast<std::size_t>(columns), -kInfinity), {columns / 2}};
        const std::size_t finite = static_cast<std::size_t>(columns / 2);
        rows.logits[finite] = 2.0f;
        rows.logits[finite + 1] = 2.0f;
        const CrossEntropy found = cross_entropy(rows);
        EXPECT_NEAR(found.losses[0], std::log(2.0), 1e-15);
        std::vector<float> expected(rows.logits.size(), 0.0f);
        expected[finite] = -0.5f;
        expected[finite + 1] = 0.5f;
        EXPECT_EQ(decode_elements(found.gradient, FloatType::kF32), expected);
        rows.targets = {0};
        EXPECT_EQ(cross_entropy(rows).losses[0], double{kInfinity});
    }
}

TEST_F(DeviceCrossEntropy, NanAndInfinityStayInTheirRow) {
    const int64_t columns = 1501;
    for (FloatType type : kFloatTypes) {
        for (float bad : {kNan, kInfinity}) {
            for (std::size_t place : {0, 700, 1500}) {
                Rows rows{gaussian(3 * columns, 1), {1, 700, 1500}, type};
                const std::vector<float> clean = decode_elements(cross_entropy(rows).gradient, type);
                rows.logits[static_cast<std::size_t>(columns) + place] = bad;
                const CrossEntropy found = cross_entropy(rows);
                EXPECT_TRUE(std::isnan(found.losses[1]));
                EXPECT_FALSE(std::isnan(found.losses[0]) || std::isnan(found.losses[2]));
                const std::vector<float> gradient = decode_elements(found.gradient, type);
                for (std::size_t i = 0; i < gradient.size(); ++i) {
                    const bool same = i / static_cast<std::size_t>(columns) != 1;
                    ASSERT_TRUE(same ? gradient[i] == clean[i] : std::isnan(gradient[i])) << i;
                }
            }
        }
    }
}

TEST_F(DeviceCrossEntropy, NothingFiniteGivesNanEverywhere) {
    for (float value : {-kInfinity, kInfinity, kNan}) {
        const Rows rows{std::vector<float>(40, value), {3}};
        const CrossEntropy found = cross_entropy(rows);
        EXPECT_TRUE(std::isnan(found.losses[0]));
        for (float x : decode_elements(found.gradient, FloatType::kF32)) EXPECT_TRUE(std::isnan(x));
    }
}

TEST_F(DeviceCrossEntropy, AlignedRowsTakeWideAccesses) {
    if (device_vector_accesses() < 0)
        GTEST_SKIP() << "nobody counts the accesses of a " << device_name() << " device";
    const auto accesses = [](int64_t columns, FloatType type, int shift, LogitCurve curve = {}) {
        const int64_t before = device_vector_accesses();
        cross_entropy({gaussian(2 * columns, 1), {0, 1}, type, shift, curve});
        return device_vector_accesses() - before;
    };
    // Four whole groups a row of bf16: two loads, then two loads and two stores each. fp32 takes four.
    EXPECT_EQ(accesses(64, FloatType::kBF16, 0), 2 * 4 * (2 + 4));
    EXPECT_EQ(accesses(72, FloatType::kF16, 8), 2 * 4 * (2 + 4));
    EXPECT_EQ(accesses(64, FloatType::kBF16, 0, kCurves[2]), 2 * 4 * (2 + 4));
    EXPECT_EQ(accesses(68, FloatType::kF32, 4), 2 * 4 * (4 + 8));
    // A misaligned row: only the second pass, from the first aligned column on.
    EXPECT_EQ(accesses(64, FloatType::kBF16, 1), 2 * 3 * 4);
    // The second row begins one element past an aligned place, so seven columns before the next.
    EXPECT_EQ(accesses(65, FloatType::kBF16, 0), 4 * (2 + 4) + 3 * 4);
    EXPECT_EQ(accesses(5, FloatType::kF32, 1), 0);
}

TEST_F(DeviceCrossEntropy, NoRowsAreNoLaunchAndOthersOne) {
    if (device_launches() < 0)
        GTEST_SKIP() << "nobody counts the launches of a " << device_name() << " device";
    const int64_t before = device_launches();
    device::softmax_cross_entropy({nullptr, nullptr, 0, 10, nullptr, FloatType::kF32}, nullptr);
    EXPECT_EQ(device_launches(), before);
    cross_entropy({gaussian(50, 1), {1, 2, 3, 4, 5}});
    EXPECT_EQ(device_launches(), before + 1);
}

TEST(DeviceCrossEntropyArguments, ImpossibleOnesThrow) {
    alignas(16) uint8_t bytes[64] = {};
    int64_t target = 0;
    double loss = 0.0;
    const auto refused = [&](void* logits, int64_t rows, int64_t columns) {
        const CrossEntropyParams params{logits, &target, rows, columns, &loss, FloatType::kF32};
        EXPECT_THROW(device::softmax_cross_entropy(params, nullptr), std::invalid_argument);
    };
    refused(bytes, -1, 4);
    refused(bytes, 1, 0);
    refused(bytes, 1, -4);
    refused(bytes, 0, 0);
    refused(bytes, 0, (int64_t{1} << 30) + 1);
    refused(bytes + 2, 1, 4);
    EXPECT_NO_THROW(device::softmax_cross_entropy(
        {bytes, &target, 0, int64_t{1} << 30, &loss, FloatType::kF32}, nullptr));
}

}  // namespace
}  // namespace qlora::kernels
