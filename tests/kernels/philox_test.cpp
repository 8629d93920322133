#include "qlora/kernels/philox.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

namespace qlora::kernels {
namespace {

void expect_words(const PhiloxBlock& block, std::array<uint32_t, 4> expected) {
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(block.word[i], expected[i]);
}

TEST(Philox, EqualsRandom123OnItsKnownAnswers) {
    expect_words(philox4x32({{0, 0, 0, 0}}, 0), {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    expect_words(philox4x32({{~0u, ~0u, ~0u, ~0u}}, ~uint64_t{0}),
                 {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    // Digits of pi; the key's low word comes first.
    expect_words(philox4x32({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0x299f31d0a4093822u),
                 {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST(Philox, UniformIsAMultipleOfTwoToMinus24BelowOne) {
    EXPECT_EQ(uniform24(0), 0.0f);
    EXPECT_EQ(uniform24(0xff), 0.0f);
    EXPECT_EQ(uniform24(0x100), 0x1p-24f);
    EXPECT_EQ(uniform24(~0u), 1.0f - 0x1p-24f);
}

TEST(Dropout, KeepsTheStatedShare) {
    for (float p : {0.05f, 0.1f, 0.5f}) {
        int64_t kept = 0;
        const int64_t n = 400000;
        for (int64_t i = 0; i < n; ++i) kept += dropout_keep(42, 3, 7, static_cast<uint64_t>(i), p) ? 1 : 0;
        // Five standard deviations of a binomial count.
        EXPECT_NEAR(static_cast<double>(kept) / n, 1.0 - p, 5 * std::sqrt(p * (1.0 - p) / n));
    }
    for (uint64_t i = 0; i < 1000; ++i) {
        EXPECT_TRUE(dropout_keep(1, 0, 0, i, 0.0f));
        EXPECT_FALSE(dropout_keep(1, 0, 0, i, 1.0f));
    }
}

TEST(Dropout, EveryPartOfThePlaceMatters) {
    const auto mask = [](uint64_t seed, uint32_t step, uint32_t site, uint64_t first) {
        std::vector<bool> keep;
        for (uint64_t i = 0; i < 64; ++i) keep.push_back(dropout_keep(seed, step, site, first + i, 0.5f));
        return keep;
    };
    const std::set<std::vector<bool>> masks = {
        mask(1, 0, 0, 0), mask(2, 0, 0, 0),  mask(uint64_t{1} << 32 | 1, 0, 0, 0), mask(1, 1, 0, 0),
        mask(1, 0, 1, 0), mask(1, 0, 0, 64), mask(1, 0, 0, uint64_t{1} << 34)};
    EXPECT_EQ(masks.size(), 7u);
}

TEST(Dropout, AQuadOfWordsEqualsItsElements) {
    const PhiloxBlock words = dropout_words(9, 8, 7, 123);
    for (uint64_t i = 0; i < 4; ++i) {
        EXPECT_EQ(dropout_keep(9, 8, 7, 4 * 123 + i, 0.3f), dropout_keeps(words.word[i], 0.3f));
    }
}

TEST(PhiloxStream, RepeatsAndDiffersBySeedAndStream) {
    PhiloxStream first(5, 1), same(5, 1), other_stream(5, 2), other_seed(6, 1);
    std::vector<uint32_t> a, b, c, d;
    for (int i = 0; i < 101; ++i) {
        a.push_back(first.next_word());
        b.push_back(same.next_word());
        c.push_back(other_stream.next_word());
        d.push_back(other_seed.next_word());
    }
    EXPECT_EQ(a, b);
    EXPECT_NE(a, c);
    EXPECT_NE(a, d);
    EXPECT_EQ(std::set<uint32_t>(a.begin(), a.end()).size(), a.size());
}

TEST(PhiloxStream, UniformAndNormalHaveTheirMoments) {
    PhiloxStream stream(2024);
    const int n = 200000;
    double uniform_sum = 0, sum = 0, squares = 0, cubes = 0, fourths = 0;
    for (int i = 0; i < n; ++i) {
        uniform_sum += stream.uniform();
        const double x = stream.normal();
        sum += x;
        squares += x * x;
        cubes += x * x * x;
        fourths += x * x * x * x;
    }
    // Each bound is five standard deviations of that mean.
    EXPECT_NEAR(uniform_sum / n, 0.5, 5 * std::sqrt(1.0 / 12 / n));
    EXPECT_NEAR(sum / n, 0.0, 5 * std::sqrt(1.0 / n));
    EXPECT_NEAR(squares / n, 1.0, 5 * std::sqrt(2.0 / n));
    EXPECT_NEAR(cubes / n, 0.0, 5 * std::sqrt(15.0 / n));
    EXPECT_NEAR(fourths / n, 3.0, 5 * std::sqrt(96.0 / n));
}

TEST(PhiloxStream, BoundedIntegersAreEquallyLikely) {
    PhiloxStream stream(7);
    for (uint64_t bound : {uint64_t{1}, uint64_t{3}, uint64_t{10}}) {
        std::vector<int> counts(bound);
        const int n = 60000;
        for (int i = 0; i < n; ++i) ++counts[stream.below(bound)];
        const double expected = static_cast<double>(n) / static_cast<double>(bound);
        for (int count : counts) EXPECT_NEAR(count, expected, 5 * std::sqrt(expected) + 1e-9);
    }
    // With a bound of 3 * 2^62 a plain remainder would give the first third half of all draws.
    const uint64_t large = uint64_t{3} << 62;
    int first_third = 0;
    for (int i = 0; i < 30000; ++i) first_third += stream.below(large) < large / 3 ? 1 : 0;
    EXPECT_NEAR(first_third, 10000, 5 * std::sqrt(30000 * 2.0 / 9));
}

TEST(PhiloxStream, ShuffleReachesEveryOrder) {
    PhiloxStream stream(1);
    std::set<std::array<int, 4>> orders;
    for (int round = 0; round < 1000; ++round) {
        std::array<int, 4> order = {0, 1, 2, 3};
        for (size_t i = 3; i > 0; --i) std::swap(order[i], order[stream.below(i + 1)]);
        orders.insert(order);
    }
    EXPECT_EQ(orders.size(), 24u);
}

}  // namespace
}  // namespace qlora::kernels
