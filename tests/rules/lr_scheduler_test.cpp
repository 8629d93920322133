#include "qlora/train/lr_scheduler.h"

#include <gtest/gtest.h>

#include <cmath>

#include "qlora/train/run_length.h"

namespace qlora::train {
namespace {

double factor(LrSchedulerType type, std::int64_t step, std::int64_t warmup_steps, std::int64_t total_steps) {
    TrainingConfig config;
    config.lr_scheduler_type = type;
    return lr_factor(config, step, warmup_steps, total_steps);
}

TEST(WarmupSteps, below_one_are_a_share_rounded_up) {
    TrainingConfig config;
    config.warmup_steps = 0.03;
    EXPECT_EQ(warmup_steps_for(100, config), 3);
    EXPECT_EQ(warmup_steps_for(101, config), 4);
    EXPECT_EQ(warmup_steps_for(1, config), 1);
    config.warmup_steps = 1;
    EXPECT_EQ(warmup_steps_for(100, config), 1);
    config.warmup_steps = 0;
    EXPECT_EQ(warmup_steps_for(100, config), 0);
}

TEST(WarmupSteps, are_none_for_a_constant_rate) {
    TrainingConfig config;
    config.warmup_steps = 10;
    config.lr_scheduler_type = LrSchedulerType::kConstant;
    EXPECT_EQ(warmup_steps_for(100, config), 0);
}

class WarmedSchedule : public testing::TestWithParam<LrSchedulerType> {};

TEST_P(WarmedSchedule, starts_at_zero_and_rises_to_one) {
    EXPECT_EQ(factor(GetParam(), 0, 4, 20), 0.0);
    EXPECT_EQ(factor(GetParam(), 1, 4, 20), 0.25);
    EXPECT_EQ(factor(GetParam(), 3, 4, 20), 0.75);
    EXPECT_EQ(factor(GetParam(), 4, 4, 20), 1.0);
}

TEST_P(WarmedSchedule, without_warmup_starts_at_one) {
    EXPECT_EQ(factor(GetParam(), 0, 0, 20), 1.0);
}

TEST_P(WarmedSchedule, never_rises_after_the_warmup_nor_leaves_its_bounds) {
    double last = 1.0;
    for (std::int64_t step = 4; step < 60; ++step) {
        const double now = factor(GetParam(), step, 4, 20);
        EXPECT_LE(now, last) << step;
        EXPECT_GE(now, 0.0) << step;
        last = now;
    }
}

INSTANTIATE_TEST_SUITE_P(types, WarmedSchedule,
                         testing::Values(LrSchedulerType::kLinear, LrSchedulerType::kCosine,
                                         LrSchedulerType::kConstantWithWarmup));

TEST(Schedule, linear_and_cosine_meet_half_way_and_end_at_zero) {
    EXPECT_DOUBLE_EQ(factor(LrSchedulerType::kLinear, 12, 4, 20), 0.5);
    EXPECT_DOUBLE_EQ(factor(LrSchedulerType::kCosine, 12, 4, 20), 0.5);
    EXPECT_EQ(factor(LrSchedulerType::kLinear, 20, 4, 20), 0.0);
    EXPECT_EQ(factor(LrSchedulerType::kCosine, 20, 4, 20), 0.0);
}

TEST(Schedule, constant_is_one_from_the_first_step) {
    EXPECT_EQ(factor(LrSchedulerType::kConstant, 0, 4, 20), 1.0);
    EXPECT_EQ(factor(LrSchedulerType::kConstant, 100, 4, 20), 1.0);
}

TEST(Schedule, a_warmup_longer_than_the_run_only_rises) {
    EXPECT_EQ(factor(LrSchedulerType::kCosine, 9, 100, 10), 0.09);
    EXPECT_EQ(factor(LrSchedulerType::kLinear, 9, 100, 10), 0.09);
}

struct EpochCase {
    double epochs;
    std::int64_t steps;  // ceil(epochs * 10), as transformers 5 counts
};

TEST(RunLength, a_part_of_an_epoch_is_rounded_up_as_in_transformers) {
    const EpochCase cases[] = {{0.5, 5},   {3.0, 30}, {0.01, 1}, {2.1, 21},
                               {2.75, 28}, {1.1, 11}, {0.3, 3},  {1e-6, 1}};
    for (const EpochCase& each : cases) {
        TrainingConfig config;
        config.num_train_epochs = each.epochs;
        EXPECT_EQ(steps_of_run(config, [](std::int64_t) { return 10; }), each.steps) << each.epochs;
    }
}

TEST(RunLength, epochs_of_different_lengths_are_added) {
    TrainingConfig config;
    config.num_train_epochs = 2.5;
    EXPECT_EQ(steps_of_run(config, [](std::int64_t epoch) { return 10 + epoch; }), 10 + 11 + 6);
}

TEST(RunLength, max_steps_wins) {
    TrainingConfig config;
    config.num_train_epochs = 0.5;
    config.max_steps = 7;
    EXPECT_EQ(steps_of_run(config, [](std::int64_t) { return 10; }), 7);
}

}  // namespace
}  // namespace qlora::train
