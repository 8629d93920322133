#include "qlora/data/batch_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "qlora/core/error.h"

namespace {

using namespace qlora::data;

using Lengths = std::vector<std::int64_t>;

std::vector<std::int64_t> order_of(const std::vector<StepPlan>& steps) {
    std::vector<std::int64_t> order;
    for (const StepPlan& step : steps) {
        for (const auto& batch : step.micro_batches) order.insert(order.end(), batch.begin(), batch.end());
    }
    return order;
}

void expect_every_row_once(const std::vector<StepPlan>& steps, std::size_t rows) {
    std::vector<std::int64_t> order = order_of(steps);
    std::sort(order.begin(), order.end());
    std::vector<std::int64_t> all(rows);
    std::iota(all.begin(), all.end(), std::int64_t{0});
    EXPECT_EQ(order, all);
}

Lengths mixed_lengths(std::size_t rows) {
    Lengths lengths(rows);
    for (std::size_t i = 0; i < rows; ++i) lengths[i] = 1 + static_cast<std::int64_t>(i * 7919 % 97);
    return lengths;
}

// Mean over micro-batches of longest minus shortest row.
double mean_spread(const std::vector<StepPlan>& steps, const Lengths& lengths) {
    double sum = 0;
    double count = 0;
    for (const StepPlan& step : steps) {
        for (const auto& batch : step.micro_batches) {
            Lengths of_batch;
            for (const std::int64_t place : batch)
                of_batch.push_back(lengths[static_cast<std::size_t>(place)]);
            const auto [low, high] = std::minmax_element(of_batch.begin(), of_batch.end());
            sum += static_cast<double>(*high - *low);
            ++count;
        }
    }
    return sum / count;
}

TEST(BatchPlan, SevenRowsInTwosOfOneAreFourSteps) {
    const auto steps = plan_epoch(Lengths(7, 10), {.gradient_accumulation_steps = 2}, 0);
    ASSERT_EQ(steps.size(), 4U);
    EXPECT_EQ(steps[0].micro_batches.size(), 2U);
    EXPECT_EQ(steps[3].micro_batches.size(), 1U);  // an epoch's last group is short
    expect_every_row_once(steps, 7);
}

TEST(BatchPlan, StepsAreThoseOfTheTrainer) {
    for (std::int64_t rows = 0; rows <= 40; ++rows) {
        for (std::int64_t batch = 1; batch <= 5; ++batch) {
            for (std::int64_t accumulation = 1; accumulation <= 4; ++accumulation) {
                const BatchPlanOptions options{.per_device_train_batch_size = batch,
                                               .gradient_accumulation_steps = accumulation};
                const auto steps = plan_epoch(Lengths(static_cast<std::size_t>(rows), 3), options, 1);
                const std::int64_t batches = (rows + batch - 1) / batch;
                EXPECT_EQ(static_cast<std::int64_t>(steps.size()),
                          (batches + accumulation - 1) / accumulation);
                expect_every_row_once(steps, static_cast<std::size_t>(rows));
            }
        }
    }
}

TEST(BatchPlan, IsAFunctionOfItsArguments) {
    const Lengths lengths = mixed_lengths(100);
    const BatchPlanOptions options{.per_device_train_batch_size = 4, .seed = 7};
    EXPECT_EQ(order_of(plan_epoch(lengths, options, 3)), order_of(plan_epoch(lengths, options, 3)));
    EXPECT_NE(order_of(plan_epoch(lengths, options, 3)), order_of(plan_epoch(lengths, options, 4)));
    BatchPlanOptions other = options;
    other.seed = 8;
    EXPECT_NE(order_of(plan_epoch(lengths, options, 3)), order_of(plan_epoch(lengths, other, 3)));
}

TEST(BatchPlan, TheOrderNeverChangesBetweenVersions) {
    // Pinned: a resumed run of an older build must see the same rows.
    EXPECT_EQ(order_of(plan_epoch(Lengths(10, 1), {.seed = 42}, 0)),
              (std::vector<std::int64_t>{6, 4, 9, 1, 3, 0, 8, 7, 2, 5}));
}

TEST(BatchPlan, EveryPermutationOfThreeIsEquallyLikely) {
    std::vector<int> counts(27, 0);
    constexpr int kEpochs = 6000;
    for (int epoch = 0; epoch < kEpochs; ++epoch) {
        const auto order = order_of(plan_epoch(Lengths(3, 1), {}, epoch));
        ++counts[static_cast<std::size_t>(order[0] * 9 + order[1] * 3 + order[2])];
    }
    // Expected 1000 each, standard deviation 29: five of them.
    for (const int count : counts) EXPECT_TRUE(count == 0 || std::abs(count - 1000) < 145) << count;
    EXPECT_EQ(std::count(counts.begin(), counts.end(), 0), 21);
}

TEST(BatchPlan, WithoutShufflingRowsKeepTheirOrder) {
    const auto order =
        order_of(plan_epoch(Lengths(9, 1), {.per_device_train_batch_size = 2, .shuffle = false}, 5));
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST(BatchPlan, TokensFillMicroBatchesGreedily) {
    const Lengths lengths = {4, 4, 3, 9, 1, 12, 2};
    const auto steps = plan_epoch(lengths, {.max_tokens_per_batch = 10, .shuffle = false}, 0);
    std::vector<std::vector<std::int64_t>> batches;
    for (const StepPlan& step : steps) batches.push_back(step.micro_batches.at(0));
    // Row 5 is longer than the limit: alone.
    EXPECT_EQ(batches, (std::vector<std::vector<std::int64_t>>{{0, 1}, {2}, {3, 4}, {5}, {6}}));
}

TEST(BatchPlan, TokensBeforeRowsFillMicroBatchesToo) {
    const BatchPlanOptions options{.max_tokens_per_batch = 10, .tokens_before = 2, .shuffle = false};
    std::vector<std::vector<std::int64_t>> batches;
    for (const StepPlan& step : plan_epoch(Lengths{3, 3, 3, 1, 2}, options, 0))
        batches.push_back(step.micro_batches.at(0));
    EXPECT_EQ(batches, (std::vector<std::vector<std::int64_t>>{{0, 1}, {2, 3}, {4}}));
}

TEST(BatchPlan, TokenLimitHoldsInShuffledOrder) {
    const Lengths lengths = mixed_lengths(500);
    for (const bool group : {false, true}) {
        const BatchPlanOptions options{
            .max_tokens_per_batch = 256, .gradient_accumulation_steps = 3, .group_by_length = group};
        const auto steps = plan_epoch(lengths, options, 0);
        expect_every_row_once(steps, lengths.size());
        for (const StepPlan& step : steps) {
            for (const auto& batch : step.micro_batches) {
                std::int64_t tokens = 0;
                for (const std::int64_t place : batch) tokens += lengths[static_cast<std::size_t>(place)];
                EXPECT_LE(tokens, 256);
            }
        }
    }
}

TEST(BatchPlan, GroupingPutsSimilarLengthsTogetherAndTheLongestFirst) {
    const Lengths lengths = mixed_lengths(1000);
    BatchPlanOptions options{.per_device_train_batch_size = 4};
    const auto mixed = plan_epoch(lengths, options, 0);
    options.group_by_length = true;
    const auto grouped = plan_epoch(lengths, options, 0);
    expect_every_row_once(grouped, lengths.size());
    EXPECT_LT(mean_spread(grouped, lengths), 0.1 * mean_spread(mixed, lengths));
    const std::int64_t first = order_of(grouped).front();
    EXPECT_EQ(lengths[static_cast<std::size_t>(first)], *std::max_element(lengths.begin(), lengths.end()));
    EXPECT_NE(order_of(grouped), order_of(plan_epoch(lengths, options, 1)));
}

TEST(BatchPlan, ImpossibleSizesAreRefused) {
    EXPECT_THROW(plan_epoch(Lengths(3, 1), {.per_device_train_batch_size = 0}, 0), qlora::ConfigError);
    EXPECT_THROW(plan_epoch(Lengths(3, 1), {.gradient_accumulation_steps = 0}, 0), qlora::ConfigError);
}

TEST(StepsOfEpoch, are_those_of_the_plan) {
    for (std::int64_t rows = 0; rows < 40; ++rows) {
        std::vector<std::int64_t> lengths;
        for (std::int64_t i = 0; i < rows; ++i) lengths.push_back(1 + i * 7 % 11);
        for (const std::int64_t batch : {1, 3, 8}) {
            for (const std::int64_t accumulation : {1, 2, 5}) {
                for (const std::int64_t tokens : {0, 20}) {
                    const BatchPlanOptions options{.per_device_train_batch_size = batch,
                                                   .max_tokens_per_batch = tokens,
                                                   .gradient_accumulation_steps = accumulation};
                    EXPECT_EQ(steps_of_epoch(lengths, options, 3),
                              static_cast<std::int64_t>(plan_epoch(lengths, options, 3).size()))
                        << rows << " " << batch << " " << accumulation << " " << tokens;
                }
            }
        }
    }
}

}  // namespace
