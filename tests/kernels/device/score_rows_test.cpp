#include <stdexcept>

#include "kernels/device/logits_rows.h"

namespace qlora::kernels {
namespace {

class DeviceScoreRows : public OnDevice {};

TEST_F(DeviceScoreRows, FollowsTheFormulaAndTheCpu) {
    for (FloatType type : kFloatTypes) {
        for (int64_t columns : kColumnCounts) {
            const Rows rows{gaussian(4 * columns, 1, 5.0f),
                            {0, columns - 1, columns / 2, columns / 3},
                            type,
                            static_cast<int>(columns % 8)};
            const Scores on_cpu = score_on_cpu(rows);
            with_some_schedule(columns, [&] {
                const Scores found = score(rows);
                EXPECT_EQ(found.correct, on_cpu.correct);
                for (std::size_t i = 0; i < rows.targets.size(); ++i) {
                    const std::vector<float> own = rows.row(static_cast<int64_t>(i));
                    const double logprob =
                        own[static_cast<std::size_t>(rows.targets[i])] - exact(own).log_sum();
                    // The contract's bound of the sum is the bound of its logarithm; then fp32.
                    const double tolerance = 1e-6 - kRounding * logprob;
                    ASSERT_NEAR(found.logprobs[i], logprob, tolerance) << columns;
                    ASSERT_NEAR(found.logprobs[i], on_cpu.logprobs[i], 2 * tolerance) << columns;
                }
            });
        }
    }
}

TEST_F(DeviceScoreRows, ACurveGivesTheBitsOfCurvedLogits) {
    for (FloatType type : kFloatTypes) {
        for (const LogitCurve& curve : kCurves) {
            for (int64_t columns : {1, 33, 257, 9001}) {
                const Rows rows{gaussian(2 * columns, 4, 3.0f),
                                {columns / 3, columns - 1},
                                type,
                                static_cast<int>(columns % 8),
                                curve};
                ASSERT_EQ(score(rows), score(without_curve(rows))) << columns;
            }
        }
    }
}

TEST_F(DeviceScoreRows, OfLogitsThatASoftcapMakesEqualTheFirstIsCorrect) {
    const LogitCurve curve{.scale = 1.0f, .softcap = 2.0f};
    for (int64_t columns : {4, 40, 9000}) {
        std::vector<float> row(static_cast<std::size_t>(columns), -1.0f);
        row[2] = 50.0f;
        row.back() = kInfinity;  // both are 2 under the cap
        EXPECT_EQ(score({row, {2}, FloatType::kF32, 0, curve}).correct[0], 1);
        EXPECT_EQ(score({row, {columns - 1}, FloatType::kF32, 0, curve}).correct[0], 0);
        EXPECT_TRUE(std::isfinite(score({row, {0}, FloatType::kF32, 0, curve}).logprobs[0]));
    }
}

TEST_F(DeviceScoreRows, SumOfEqualTermsStaysWithinTheContract) {
    for (float low : {-1.3f, -9.7f, -12.9f}) {
        Rows rows{std::vector<float>(200000, low), {4321}};
        rows.logits[4321] = 0.3f;
        const double logprob = rows.logits[4321] - exact(rows.logits).log_sum();
        EXPECT_NEAR(score(rows).logprobs[0], logprob, 1e-6 - kRounding * logprob);
    }
}

TEST_F(DeviceScoreRows, EveryPlaceAndScheduleGivesTheSameBits) {
    for (FloatType type : kFloatTypes) {
        for (int64_t columns : {3, 21, 48, 257, 8209}) {
            Rows rows{gaussian(3 * columns, 5, 4.0f), {columns - 1, 0, columns / 2}, type};
            const Scores expected = score(rows);
            for (rows.shift = 1; rows.shift <= 8; rows.shift += columns > 1000 ? 3 : 1) {
                ASSERT_EQ(score(rows), expected) << columns << " " << rows.shift;
            }
            rows.shift = 0;
            for_each_schedule([&] { ASSERT_EQ(score(rows), expected) << columns; });
            for (std::size_t i = 0; i < rows.targets.size(); ++i) {
                const Rows own{rows.row(static_cast<int64_t>(i)), {rows.targets[i]}, type};
                ASSERT_EQ(score(own).logprobs[0], expected.logprobs[i]) << columns;
            }
        }
    }
}

TEST_F(DeviceScoreRows, SixteenBitsAreTheResultInFp32) {
    for (FloatType type : {FloatType::kF16, FloatType::kBF16}) {
        for (int64_t columns : {1, 7, 64, 257, 9000}) {
            const Rows rows{gaussian(2 * columns, 4, 3.0f), {columns / 3, columns - 1}, type};
            EXPECT_EQ(score(rows), score({round_elements(rows.logits, type), rows.targets}));
        }
    }
}

TEST_F(DeviceScoreRows, LimitsAreExact) {
    for (int64_t columns : {3, 40, 9000}) {
        for (float huge : {1e4f, 3e38f}) {
            Rows rows{std::vector<float>(static_cast<std::size_t>(columns), -huge), {1}};
            rows.logits[1] = huge;
            EXPECT_EQ(score(rows), (Scores{{0.0f}, {1}}));
            rows.targets = {2};
            EXPECT_EQ(score(rows), (Scores{{static_cast<float>(-2.0 * huge)}, {0}}));
            rows.logits[2] = -kInfinity;
            EXPECT_EQ(score(rows), (Scores{{-kInfinity}, {0}}));
        }
    }
}

TEST_F(DeviceScoreRows, NanAndInfinityStayInTheirRowAndAreNeverCorrect) {
    const std::size_t columns = 1501;
    for (float bad : {kNan, kInfinity}) {
        for (std::size_t place : {0, 700, 1500}) {
            Rows rows{std::vector<float>(3 * columns, 0.0f), {700, 700, 700}};
            for (std::size_t row = 0; row < 3; ++row) rows.logits[row * columns + 700] = 5.0f;
            const Scores clean = score(rows);
            rows.logits[columns + place] = bad;
            const Scores found = score(rows);
            EXPECT_TRUE(std::isnan(found.logprobs[1]));
            EXPECT_EQ(found.correct, (std::vector<uint8_t>{1, 0, 1}));
            EXPECT_EQ(found.logprobs[0], clean.logprobs[0]);
            EXPECT_EQ(found.logprobs[2], clean.logprobs[2]);
        }
    }
}

TEST_F(DeviceScoreRows, FirstOfTheLargestIsCorrect) {
    for (int64_t columns : {4, 19, 40, 9000}) {
        const std::size_t count = static_cast<std::size_t>(columns), last = count - 1;
        std::vector<float> row(count, -1.0f);
        row[2] = row[last] = 3.0f;
        const auto is_correct = [&](int64_t target) { return score({row, {target}}).correct[0] != 0; };
        EXPECT_TRUE(is_correct(2));
        EXPECT_FALSE(is_correct(columns - 1) || is_correct(0));
        row[last] = std::nextafter(3.0f, 4.0f);
        EXPECT_TRUE(is_correct(columns - 1));
        EXPECT_FALSE(is_correct(2));
        for (float value : {0.5f, -kInfinity}) {
            row.assign(count, value);
            EXPECT_TRUE(is_correct(0)) << value;
            EXPECT_FALSE(is_correct(1)) << value;
        }
    }
}

TEST_F(DeviceScoreRows, CorrectIsWhatTheCpuFindsForEveryTarget) {
    // Few values, so that the largest comes several times; -infinity, infinity or NaN among them.
    std::mt19937 engine(9);
    for (int64_t columns : {5, 33, 70}) {
        for (float odd : {0.0f, -kInfinity, kInfinity, kNan}) {
            Rows rows{{}, {}, FloatType::kBF16};
            std::vector<float> row;
            for (int64_t i = 0; i < columns; ++i) row.push_back(static_cast<float>(engine() % 8));
            row[engine() % row.size()] = odd;
            for (int64_t target = 0; target < columns; ++target) {
                rows.logits.insert(rows.logits.end(), row.begin(), row.end());
                rows.targets.push_back(target);
            }
            EXPECT_EQ(score(rows).correct, score_on_cpu(rows).correct) << columns << " " << odd;
        }
    }
}

TEST_F(DeviceScoreRows, AlignedRowsTakeWideLoads) {
    if (device_vector_accesses() < 0)
        GTEST_SKIP() << "nobody counts the accesses of a " << device_name() << " device";
    const auto accesses = [](int64_t columns, FloatType type, int shift) {
        const int64_t before = device_vector_accesses();
        score({gaussian(2 * columns, 1), {0, 1}, type, shift});
        return device_vector_accesses() - before;
    };
    // Four whole groups a row: two loads of bf16 each, four of fp32.
    EXPECT_EQ(accesses(64, FloatType::kBF16, 0), 2 * 4 * 2);
    EXPECT_EQ(accesses(72, FloatType::kF16, 8), 2 * 4 * 2);
    EXPECT_EQ(accesses(68, FloatType::kF32, 4), 2 * 4 * 4);
    EXPECT_EQ(accesses(64, FloatType::kBF16, 1), 0);
    EXPECT_EQ(accesses(65, FloatType::kBF16, 0), 4 * 2);
}

TEST_F(DeviceScoreRows, NoRowsAreNoLaunchAndOthersOne) {
    if (device_launches() < 0)
        GTEST_SKIP() << "nobody counts the launches of a " << device_name() << " device";
    const int64_t before = device_launches();
    device::score_rows({nullptr, nullptr, 0, 10, nullptr, nullptr, FloatType::kF32}, nullptr);
    EXPECT_EQ(device_launches(), before);
    score({gaussian(50, 1), {1, 2, 3, 4, 5}});
    EXPECT_EQ(device_launches(), before + 1);
}

TEST(DeviceScoreRowsArguments, ImpossibleOnesThrow) {
    alignas(16) uint8_t bytes[64] = {};
    int64_t target = 0;
    float logprob = 0.0f;
    bool correct = false;
    const auto refused = [&](const void* logits, int64_t rows, int64_t columns) {
        const ScoreRowsParams params{logits, &target, rows, columns, &logprob, &correct, FloatType::kF32};
        EXPECT_THROW(device::score_rows(params, nullptr), std::invalid_argument);
    };
    refused(bytes, -1, 4);
    refused(bytes, 1, 0);
    refused(bytes, 0, -4);
    refused(bytes, 0, (int64_t{1} << 30) + 1);
    refused(bytes + 2, 1, 4);
}

}  // namespace
}  // namespace qlora::kernels
