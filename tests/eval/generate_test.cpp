#include "qlora/eval/generate.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "qlora/models/base_loader.h"
#include "support/tiny_model.h"

namespace qlora::eval {
namespace {

using Ids = std::vector<tokenizer::TokenId>;

class Generating : public testing::Test {
  protected:
    Generating() {
        const test::TempDir dir;
        const test::TinyModel tiny;
        tiny.write(dir.path());
        model_ = models::load_base(io::Checkpoint(dir.path()), models::load_decoder_spec(dir.path()), {});
    }

    std::vector<Ids> answers(const GenerateOptions& options) const {
        return generate(*model_, prompts_, options);
    }

    std::unique_ptr<models::CausalLM> model_;
    std::vector<Ids> prompts_{{5, 6, 7}, {90}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, {20, 30}, {5, 6, 8}};
};

TEST_F(Generating, TogetherOrOneByOneTheAnswersAreTheSame) {
    const auto one_by_one = answers({.max_new_tokens = 12, .batch_rows = 1});
    for (const std::int64_t batch_rows : {2, 3, 16})
        EXPECT_EQ(answers({.max_new_tokens = 12, .batch_rows = batch_rows}), one_by_one) << batch_rows;
    for (const Ids& answer : one_by_one) EXPECT_EQ(answer.size(), 12U);
}

TEST_F(Generating, ItEndsBeforeAnyOfTheStopIds) {
    const auto free = answers({.max_new_tokens = 12});
    // Of two rows one token each; the others may hold them too.
    const Ids stops{free[0][5], free[2][3]};
    const auto stopped = answers({.max_new_tokens = 12, .stop_ids = stops, .batch_rows = 3});
    for (std::size_t row = 0; row < prompts_.size(); ++row) {
        const auto end = std::find_first_of(free[row].begin(), free[row].end(), stops.begin(), stops.end());
        EXPECT_EQ(stopped[row], Ids(free[row].begin(), end)) << row;
    }
    EXPECT_LE(stopped[0].size(), 5U);
    EXPECT_LE(stopped[2].size(), 3U);
}

TEST_F(Generating, ItStopsWhenAskedAndTellsHowFarItCame) {
    std::vector<std::int64_t> progress;
    GenerateOptions options{.max_new_tokens = 2, .batch_rows = 2};
    options.progress = [&](std::int64_t prompts) { progress.push_back(prompts); };
    options.should_stop = [&] { return !progress.empty(); };
    const auto out = answers(options);
    EXPECT_EQ(progress, std::vector<std::int64_t>{2});
    EXPECT_EQ(out[1].size(), 2U);
    EXPECT_TRUE(out[2].empty());
}

}  // namespace
}  // namespace qlora::eval
