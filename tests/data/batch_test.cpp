#include "qlora/data/batch.h"

#include <gtest/gtest.h>

namespace {

using namespace qlora::data;

Example example(std::vector<qlora::tokenizer::TokenId> ids, std::vector<std::uint8_t> supervised,
                std::int64_t row) {
    Example out;
    out.ids = std::move(ids);
    out.supervised = std::move(supervised);
    out.row = row;
    return out;
}

TEST(Collate, LaysSequencesEndToEndAndPointsAtTheTokenBefore) {
    const Example a = example({10, 11, 12}, {0, 1, 1}, 5);
    const Example b = example({20, 21}, {0, 1}, 2);
    const std::vector<const Example*> examples = {&a, &b};
    const Batch batch = collate(examples);
    EXPECT_EQ(batch.ids, (std::vector<std::int64_t>{10, 11, 12, 20, 21}));
    EXPECT_EQ(batch.positions, (std::vector<std::int64_t>{0, 1, 2, 0, 1}));
    EXPECT_EQ(batch.offsets, (std::vector<std::int64_t>{0, 3, 5}));
    EXPECT_EQ(batch.loss_rows, (std::vector<std::int64_t>{0, 1, 3}));
    EXPECT_EQ(batch.targets, (std::vector<std::int64_t>{11, 12, 21}));
    EXPECT_EQ(batch.sequences(), 2);
    EXPECT_EQ(batch.supervised_tokens(), a.supervised_tokens() + b.supervised_tokens());
}

TEST(Collate, NoLossCrossesFromOneSequenceToTheNext) {
    const Example a = example({1, 2}, {0, 0}, 0);
    const Example b = example({3, 4}, {1, 1}, 1);  // a first token is never predicted
    const std::vector<const Example*> examples = {&a, &b};
    const Batch batch = collate(examples);
    EXPECT_EQ(batch.loss_rows, (std::vector<std::int64_t>{2}));
    EXPECT_EQ(batch.targets, (std::vector<std::int64_t>{4}));
}

TEST(Collate, OfNothingIsEmpty) {
    const Batch batch = collate({});
    EXPECT_EQ(batch.sequences(), 0);
    EXPECT_EQ(batch.tokens(), 0);
}

}  // namespace
