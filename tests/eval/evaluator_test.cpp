#include "qlora/eval/evaluator.h"

#include <gtest/gtest.h>

#include <random>

#include "qlora/models/base_loader.h"
#include "support/tiny_model.h"

namespace qlora::eval {
namespace {

/// A tiny model, and rows of other lengths and other shares of supervised tokens.
class Evaluation : public testing::Test {
  protected:
    Evaluation() {
        const test::TempDir dir;
        const test::TinyModel tiny;
        tiny.write(dir.path());
        model_ = models::load_base(io::Checkpoint(dir.path()), models::load_decoder_spec(dir.path()), {});
        std::mt19937 engine(3);
        for (const std::size_t length : {3, 40, 5, 17, 2, 29, 11}) {
            data::Example row{.supervised = std::vector<std::uint8_t>(length, 0),
                              .row = static_cast<std::int64_t>(rows_.size())};
            for (std::size_t i = 0; i < length; ++i)
                row.ids.push_back(static_cast<tokenizer::TokenId>(engine() % 97));
            // One token of the long rows, all of the short ones: batch means are far from the token mean.
            for (std::size_t i = 1; i < length; ++i)
                row.supervised[i] = length < 10 || i + 1 == length ? 1 : 0;
            rows_.push_back(row);
        }
    }

    EvalSums evaluate_in(std::int64_t tokens_per_batch) const {
        return evaluate(*model_, rows_, {.tokens_per_batch = tokens_per_batch});
    }

    std::unique_ptr<models::CausalLM> model_;
    std::vector<data::Example> rows_;
};

TEST_F(Evaluation, TheLossIsTheMeanOverAllSupervisedTokensWhateverTheBatching) {
    double loss = 0, mean_of_rows = 0;
    std::int64_t tokens = 0, correct = 0;
    for (const data::Example& row : rows_) {
        const EvalSums one = evaluate(*model_, {&row, 1}, {});
        loss += one.loss;
        tokens += one.supervised_tokens;
        correct += one.correct_tokens;
        mean_of_rows += one.mean_loss() / static_cast<double>(rows_.size());
        EXPECT_EQ(one.supervised_tokens, row.supervised_tokens());
    }
    const double mean = loss / static_cast<double>(tokens);
    ASSERT_GT(std::abs(mean - mean_of_rows), 1e-2) << "the rows must tell the two apart";
    for (const std::int64_t tokens_per_batch : {1, 20, 45, 1024}) {
        const EvalSums sums = evaluate_in(tokens_per_batch);
        EXPECT_EQ(sums.rows, 7);
        EXPECT_EQ(sums.supervised_tokens, tokens);
        EXPECT_EQ(sums.correct_tokens, correct);
        // fp32 products of other sizes.
        EXPECT_NEAR(sums.mean_loss(), mean, 1e-5) << tokens_per_batch;
    }
}

TEST_F(Evaluation, EachRowGetsItsOwnLogProbabilities) {
    std::vector<std::int64_t> seen;
    double loss = 0;
    EvalOptions options{.tokens_per_batch = 45};
    options.per_row = [&](const data::Example& row, std::span<const float> logprobs) {
        seen.push_back(row.row);
        ASSERT_EQ(logprobs.size() + 1, row.ids.size());
        for (std::size_t i = 0; i < logprobs.size(); ++i)
            if (row.supervised[i + 1] != 0) loss -= static_cast<double>(logprobs[i]);
    };
    const EvalSums sums = evaluate(*model_, rows_, options);
    EXPECT_EQ(seen, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6}));
    EXPECT_NEAR(sums.loss, loss, 1e-9 * loss);
    EXPECT_NEAR(sums.loss, evaluate_in(45).loss, 1e-4);
}

TEST_F(Evaluation, OnRequestARowGetsThoseOfItsSupervisedTokensAlone) {
    std::vector<std::vector<float>> all, some;
    EvalOptions options{.tokens_per_batch = 45};
    options.per_row = [&](const data::Example& row, std::span<const float> logprobs) {
        all.emplace_back();
        for (std::size_t i = 0; i < logprobs.size(); ++i)
            if (row.supervised[i + 1] != 0) all.back().push_back(logprobs[i]);
    };
    evaluate(*model_, rows_, options);
    options.supervised_only = true;
    options.per_row = [&](const data::Example&, std::span<const float> logprobs) {
        some.emplace_back(logprobs.begin(), logprobs.end());
    };
    EXPECT_NEAR(evaluate(*model_, rows_, options).loss, evaluate_in(45).loss, 1e-4);
    ASSERT_EQ(some.size(), all.size());
    for (std::size_t row = 0; row < all.size(); ++row) {
        ASSERT_EQ(some[row].size(), all[row].size());
        // fp32 products of other sizes.
        for (std::size_t i = 0; i < all[row].size(); ++i) EXPECT_NEAR(some[row][i], all[row][i], 1e-5);
    }
}

TEST_F(Evaluation, ItStopsBetweenBatchesAndTellsHowFarItCame) {
    std::vector<std::int64_t> progress;
    EvalOptions options{.tokens_per_batch = 1};
    options.progress = [&](std::int64_t rows) { progress.push_back(rows); };
    options.should_stop = [&] { return progress.size() == 3; };
    EXPECT_EQ(evaluate(*model_, rows_, options).rows, 3);
    EXPECT_EQ(progress, (std::vector<std::int64_t>{1, 2, 3}));
    EXPECT_EQ(evaluate(*model_, {}, {}).mean_loss(), 0.0);
}

}  // namespace
}  // namespace qlora::eval
