#include "qlora/core/nearest.h"

#include <gtest/gtest.h>

namespace qlora {
namespace {

const std::vector<std::string> kNames = {
    "learning_rate",   "lr_scheduler_type", "r", "max_steps", "save_steps", "per_device_train_batch_size",
    "num_train_epochs"};

TEST(EditDistance, counts_insertions_deletions_replacements_and_swaps) {
    EXPECT_EQ(edit_distance("", ""), 0U);
    EXPECT_EQ(edit_distance("abc", "abc"), 0U);
    EXPECT_EQ(edit_distance("", "abc"), 3U);
    EXPECT_EQ(edit_distance("abc", ""), 3U);
    EXPECT_EQ(edit_distance("abc", "abd"), 1U);
    EXPECT_EQ(edit_distance("abc", "abcd"), 1U);
    EXPECT_EQ(edit_distance("abc", "ac"), 1U);
    EXPECT_EQ(edit_distance("abc", "acb"), 1U);
    EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
}

TEST(NearNames, puts_the_closest_first) {
    EXPECT_EQ(near_names("learning_rat", kNames).front(), "learning_rate");
    EXPECT_EQ(near_names("max_step", kNames).front(), "max_steps");
    EXPECT_EQ(near_names("saev_steps", kNames).front(), "save_steps");
}

TEST(NearNames, finds_a_part_of_a_long_name_in_any_case) {
    EXPECT_EQ(near_names("batch_size", kNames).front(), "per_device_train_batch_size");
    EXPECT_EQ(near_names("Epochs", kNames).front(), "num_train_epochs");
}

TEST(NearNames, offers_nothing_far_off) {
    EXPECT_TRUE(near_names("dropout", kNames).empty());
    EXPECT_TRUE(near_names("", kNames).empty());
    EXPECT_TRUE(near_names("q", kNames).empty());
    EXPECT_TRUE(near_names(std::string(5000, 'x'), kNames).empty());
}

TEST(DidYouMean, is_a_question_or_nothing) {
    EXPECT_EQ(did_you_mean("learnin_rate", kNames), "; did you mean \"learning_rate\"?");
    EXPECT_EQ(did_you_mean("xyz", kNames), "");
    EXPECT_EQ(did_you_mean("ab", {"abc", "abd", "zzz"}), "; did you mean \"abc\" or \"abd\"?");
}

}  // namespace
}  // namespace qlora
