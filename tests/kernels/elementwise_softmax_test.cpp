#include <memory>
#include <numeric>
#include <stdexcept>

#include "kernels/elementwise_rows.h"

namespace qlora::kernels::cpu {
namespace {

struct Exact {
    double max, sum;  // sum of e^(x - max)
    double log_sum() const { return max + std::log(sum); }
};

Exact exact(const std::vector<float>& row) {
    Exact result = {*std::max_element(row.begin(), row.end()), 0.0};
    for (float x : row) result.sum += std::exp(double{x} - result.max);
    return result;
}

struct CrossEntropy {
    std::vector<float> gradient;
    std::vector<double> losses;
};

CrossEntropy cross_entropy(const std::vector<float>& logits, const std::vector<int64_t>& targets,
                           size_t shift = 0) {
    const int64_t rows = static_cast<int64_t>(targets.size());
    Guarded values(logits, shift);
    std::vector<double> losses(targets.size());
    softmax_cross_entropy(values.data(), targets.data(), rows, static_cast<int64_t>(logits.size()) / rows,
                          losses.data());
    EXPECT_TRUE(values.intact());
    return {values.values(), losses};
}

struct Scores {
    std::vector<float> logprobs;
    std::vector<bool> correct;
};

Scores score(const std::vector<float>& logits, const std::vector<int64_t>& targets, size_t shift = 0) {
    const int64_t rows = static_cast<int64_t>(targets.size());
    Guarded values(logits, shift), logprobs(rows);
    const auto correct = std::make_unique<bool[]>(targets.size());
    score_rows(values.data(), targets.data(), rows, static_cast<int64_t>(logits.size()) / rows,
               logprobs.data(), correct.get());
    EXPECT_EQ(bits_of(values.values()), bits_of(logits));
    return {logprobs.values(), std::vector<bool>(correct.get(), correct.get() + rows)};
}

/// Small sizes, then around the blocks of the kernel, up to more blocks of 1024 than it keeps.
std::vector<int64_t> column_counts() {
    std::vector<int64_t> counts = row_sizes();
    for (int64_t count : {int64_t{49152}, int64_t{262144}, int64_t{262145}, int64_t{300001}}) {
        counts.push_back(count);
    }
    return counts;
}

class Softmax : public OnEveryPath {};

TEST_P(Softmax, FollowsTheFormulaInDouble) {
    for (int64_t columns : column_counts()) {
        const std::vector<float> logits = gaussian(2 * columns, 1, 5.0f);
        const std::vector<int64_t> targets = {columns / 2, columns - 1};
        const CrossEntropy found = cross_entropy(logits, targets, static_cast<size_t>(columns % 8));
        const Scores scores = score(logits, targets, static_cast<size_t>(columns % 8));
        for (size_t row = 0; row < 2; ++row) {
            const int64_t begin = static_cast<int64_t>(row) * columns;
            const std::vector<float> own = part(logits, begin, columns);
            const Exact e = exact(own);
            const double target = own[static_cast<size_t>(targets[row])];
            // The contract's bound of the sum is the bound of its logarithm.
            ASSERT_NEAR(found.losses[row], e.log_sum() - target, 1e-6) << columns;
            ASSERT_NEAR(scores.logprobs[row], target - e.log_sum(),
                        1e-6 + kRounding * (e.log_sum() - target));
            for (int64_t i = 0; i < columns; ++i) {
                const double below_max = e.max - own[static_cast<size_t>(i)];
                const double p = std::exp(-below_max) / e.sum;
                const double hot = i == targets[row] ? 1.0 : 0.0;
                // x - max is rounded, which moves e^(x - max) by that error; the exponential, its scale and
                // the product add 4 roundings, the sum 1e-6, the subtraction of 1 another of a value below 1.
                const double tolerance = p * ((below_max + 4) * kRounding + 1e-6) + hot * kRounding + 1e-44;
                ASSERT_NEAR(found.gradient[static_cast<size_t>(begin + i)], p - hot, tolerance)
                    << columns << " " << i;
            }
        }
    }
}

TEST_P(Softmax, SumOfEqualTermsStaysWithinTheContract) {
    // All but one are equal, so every rounding has the same sign: the worst case for a sum.
    const int64_t columns = 200000;
    std::mt19937 engine(1);
    std::uniform_real_distribution<float> uniform(0.0f, 16.0f);
    for (int trial = 0; trial < 20; ++trial) {
        std::vector<float> logits(static_cast<size_t>(columns), -uniform(engine));
        logits[static_cast<size_t>(trial * 9999)] = uniform(engine) * 0.1f;
        const double error = cross_entropy(logits, {0}).losses[0] - (exact(logits).log_sum() - logits[0]);
        EXPECT_LT(std::abs(std::expm1(error)), 1e-6);
        EXPECT_NEAR(score(logits, {0}).logprobs[0], logits[0] - exact(logits).log_sum(), 2e-6);
    }
}

TEST_P(Softmax, AscendingAndDescendingRowsAgree) {
    // Ascending rows raise the maximum in every block, descending ones never after the first.
    const size_t columns = 5000;
    std::vector<float> up(columns);
    std::iota(up.begin(), up.end(), 0.0f);
    for (float& x : up) x *= 0.25f;
    const std::vector<float> down(up.rbegin(), up.rend());
    const CrossEntropy a = cross_entropy(up, {4990}), b = cross_entropy(down, {9});
    EXPECT_NEAR(a.losses[0], b.losses[0], 1e-6);
    EXPECT_NEAR(a.losses[0], exact(up).log_sum() - up[4990], 1e-6);
    for (size_t i = 0; i < columns; ++i) {
        // Differences that are multiples of 1/4 are exact; scales of other blocks differ by roundings.
        EXPECT_NEAR(a.gradient[i], b.gradient[columns - 1 - i], 1e-6 * std::abs(a.gradient[i]) + 1e-7);
    }
}

TEST_P(Softmax, ExtremeLogitsGiveTheLimits) {
    for (int64_t columns : {3, 8, 40, 3000}) {
        std::vector<float> logits(static_cast<size_t>(columns), -1e4f);
        logits[1] = 1e4f;
        const CrossEntropy wrong = cross_entropy(logits, {2}), right = cross_entropy(logits, {1});
        EXPECT_EQ(wrong.losses[0], 2e4);
        EXPECT_EQ(wrong.gradient[1], 1.0f);
        EXPECT_EQ(wrong.gradient[2], -1.0f);
        EXPECT_EQ(wrong.gradient[0], 0.0f);
        EXPECT_EQ(right.losses[0], 0.0);
        EXPECT_EQ(right.gradient[1], 0.0f);
    }
    const CrossEntropy one = cross_entropy({-3e38f}, {0});
    EXPECT_EQ(one.losses[0], 0.0);
    EXPECT_EQ(one.gradient[0], 0.0f);
}

TEST_P(Softmax, MinusInfinityIsAProbabilityOfZero) {
    for (int64_t columns : {5, 13, 2500}) {  // of the last, whole blocks at both ends see nothing finite
        std::vector<float> logits(static_cast<size_t>(columns), -kInfinity);
        const size_t finite = static_cast<size_t>(columns / 2);
        logits[finite] = 2.0f;
        logits[finite + 1] = 2.0f;
        const CrossEntropy found = cross_entropy(logits, {static_cast<int64_t>(finite)});
        EXPECT_NEAR(found.losses[0], std::log(2.0), 1e-15);
        for (size_t i = 0; i < logits.size(); ++i) {
            EXPECT_EQ(found.gradient[i], i == finite ? -0.5f : i == finite + 1 ? 0.5f : 0.0f) << i;
        }
        EXPECT_EQ(score(logits, {0}).logprobs[0], -kInfinity);
        EXPECT_EQ(cross_entropy(logits, {0}).losses[0], double{kInfinity});
    }
}

TEST_P(Softmax, NanAndInfinityStayInTheirRow) {
    const int64_t columns = 1500;
    for (float bad : {kNan, kInfinity}) {
        for (int64_t place : {0, 700, 1499}) {
            std::vector<float> logits = gaussian(3 * columns, 1);
            const std::vector<int64_t> targets = {1, 700, 1499};
            const CrossEntropy clean = cross_entropy(logits, targets);
            logits[static_cast<size_t>(columns + place)] = bad;
            const CrossEntropy found = cross_entropy(logits, targets);
            const Scores scores = score(logits, targets);
            EXPECT_TRUE(std::isnan(found.losses[1]) && std::isnan(scores.logprobs[1]));
            EXPECT_FALSE(scores.correct[1]);
            for (float p : part(found.gradient, columns, columns)) ASSERT_TRUE(std::isnan(p));
            EXPECT_EQ(part(found.gradient, 0, columns), part(clean.gradient, 0, columns));
            EXPECT_EQ(part(found.gradient, 2 * columns, columns), part(clean.gradient, 2 * columns, columns));
        }
    }
}

TEST_P(Softmax, FirstOfTheLargestIsCorrect) {
    for (int64_t columns : {4, 19, 2100}) {
        std::vector<float> logits(static_cast<size_t>(columns), -1.0f);
        const size_t second = static_cast<size_t>(columns - 1);
        logits[2] = logits[second] = 3.0f;
        const int64_t last = columns - 1;
        std::vector<float> rows = joined(joined(logits, logits), logits);
        EXPECT_EQ(score(rows, {2, last, 0}).correct, (std::vector<bool>{true, false, false}));
        logits[second] = std::nextafter(3.0f, 4.0f);
        EXPECT_EQ(score(joined(logits, logits), {2, last}).correct, (std::vector<bool>{false, true}));
        logits.assign(logits.size(), 0.5f);
        EXPECT_EQ(score(joined(logits, logits), {0, 1}).correct, (std::vector<bool>{true, false}));
    }
}

TEST_P(Softmax, RowsOneByOneGiveTheBitsOfTheWhole) {
    const int64_t rows = 4, columns = 1501;
    const std::vector<float> logits = gaussian(rows * columns, 1, 4.0f);
    const std::vector<int64_t> targets = {0, 1500, 700, 1499};
    const CrossEntropy whole = cross_entropy(logits, targets);
    const Scores scores = score(logits, targets);
    for (size_t row = 0; row < targets.size(); ++row) {
        const int64_t begin = static_cast<int64_t>(row) * columns;
        const std::vector<float> own = part(logits, begin, columns);
        const CrossEntropy found = cross_entropy(own, {targets[row]}, row);
        EXPECT_EQ(found.gradient, part(whole.gradient, begin, columns));
        EXPECT_EQ(found.losses[0], whole.losses[row]);
        EXPECT_EQ(score(own, {targets[row]}, row).logprobs[0], scores.logprobs[row]);
    }
}

TEST_P(Softmax, TargetsOutsideThrowAndChangeNothing) {
    std::vector<float> logits = {1.0f, 2.0f, 3.0f, 4.0f};
    const std::vector<float> before = logits;
    double losses[2];
    float logprobs[2];
    bool correct[2];
    for (int64_t bad : {int64_t{2}, int64_t{-1}, int64_t{-100}}) {
        const int64_t targets[2] = {0, bad};
        EXPECT_THROW(softmax_cross_entropy(logits.data(), targets, 2, 2, losses), std::invalid_argument);
        EXPECT_THROW(score_rows(logits.data(), targets, 2, 2, logprobs, correct), std::invalid_argument);
    }
    const int64_t targets[1] = {0};
    EXPECT_THROW(softmax_cross_entropy(logits.data(), targets, -1, 2, losses), std::invalid_argument);
    EXPECT_THROW(softmax_cross_entropy(logits.data(), targets, 1, 0, losses), std::invalid_argument);
    EXPECT_EQ(logits, before);
}

INSTANTIATE_TEST_SUITE_P(Paths, Softmax, testing::ValuesIn(supported_sets()), set_name);

TEST(SoftmaxPaths, GiveTheSameBits) {
    for (int64_t columns : column_counts()) {
        std::vector<float> wild = wild_values(2 * columns, 2);
        for (float& x : wild) {
            // NaN and infinity would make all of a row NaN: only the short rows keep them.
            if (columns > 8 && !(x < kInfinity)) x = 1.0f;
        }
        for (const auto& logits : {gaussian(2 * columns, 1, 5.0f), wild}) {
            const std::vector<int64_t> targets = {0, columns - 1};
            expect_same_bits_on_every_path([&] {
                const CrossEntropy found = cross_entropy(logits, targets);
                const Scores scores = score(logits, targets);
                std::vector<float> all = joined(found.gradient, scores.logprobs);
                for (double loss : found.losses) {
                    all.push_back(static_cast<float>(loss));
                    all.push_back(static_cast<float>(loss - static_cast<double>(all.back())));
                }
                for (bool correct : scores.correct) all.push_back(correct ? 1.0f : 0.0f);
                return all;
            });
        }
    }
}

}  // namespace
}  // namespace qlora::kernels::cpu
