#include "qlora/train/loss_scaler.h"

#include <gtest/gtest.h>

namespace qlora::train {
namespace {

TEST(LossScaler, off_it_is_one_and_leaves_the_state_alone) {
    RunState state;
    LossScaler scaler(state, false);
    EXPECT_EQ(scaler.scale(), 1.0);
    EXPECT_FALSE(scaler.lower());
    for (std::int64_t i = 0; i < LossScaler::kGrowthInterval; ++i) scaler.step_done();
    EXPECT_EQ(scaler.scale(), 1.0);
    EXPECT_EQ(state.to_json(), RunState().to_json());
}

TEST(LossScaler, halves_on_overflow_and_stops_at_one) {
    RunState state;
    LossScaler scaler(state, true);
    EXPECT_EQ(scaler.scale(), 65536.0);
    int halvings = 0;
    while (scaler.lower()) {
        ++halvings;
        ASSERT_LE(halvings, 100);
    }
    EXPECT_EQ(halvings, 16);
    EXPECT_EQ(scaler.scale(), 1.0);
}

TEST(LossScaler, doubles_after_many_good_steps_and_counts_anew_after_an_overflow) {
    RunState state;
    LossScaler scaler(state, true);
    for (std::int64_t i = 0; i < LossScaler::kGrowthInterval; ++i) {
        EXPECT_EQ(scaler.scale(), 65536.0);
        scaler.step_done();
    }
    EXPECT_EQ(scaler.scale(), 131072.0);
    for (std::int64_t i = 1; i < LossScaler::kGrowthInterval; ++i) scaler.step_done();
    EXPECT_TRUE(scaler.lower());
    scaler.step_done();
    EXPECT_EQ(scaler.scale(), 65536.0);
}

TEST(LossScaler, goes_on_from_a_saved_state) {
    RunState state;
    LossScaler before(state, true);
    before.lower();
    for (int i = 0; i < 5; ++i) before.step_done();
    RunState restored = RunState::from_json(state.to_json(), "state");
    LossScaler after(restored, true);
    EXPECT_EQ(after.scale(), 32768.0);
    for (std::int64_t i = 5; i < LossScaler::kGrowthInterval; ++i) after.step_done();
    EXPECT_EQ(after.scale(), 65536.0);
}

}  // namespace
}  // namespace qlora::train
