#include "qlora/data/held_out_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "data/fake_tokenizer.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/data/preview.h"
#include "support/temp_dir.h"

namespace {

using namespace qlora;
using namespace qlora::data;
using data::test::FakeTokenizer;
using qlora::test::TempDir;
using qlora::test::write_file;

std::string numbered_row(int number) {
    return Json({{"prompt", "row " + std::to_string(number)}, {"completion", std::to_string(number)}})
               .dump() +
           "\n";
}

/// Examples of `rows` rows, numbered from 0, without a file.
Dataset dataset(std::int64_t rows) {
    Dataset out;
    for (std::int64_t i = 0; i < rows; ++i) {
        Example example;
        example.ids.assign(static_cast<std::size_t>(i + 2), 1);
        example.supervised.assign(static_cast<std::size_t>(i + 2), 1);
        example.supervised[0] = 0;
        example.row = i;
        out.examples.push_back(example);
    }
    out.statistics.read = out.statistics.kept = rows;
    return out;
}

std::size_t held_out(std::int64_t rows, const RowPart& part) {
    Dataset train = dataset(rows);
    return hold_out(train, part, 42).size();
}

std::vector<std::int64_t> numbers(const Dataset& rows) {
    std::vector<std::int64_t> out;
    for (const Example& example : rows.examples) out.push_back(example.row);
    return out;
}

TEST(HoldOut, AShareIsRoundedUpAndANumberIsTaken) {
    EXPECT_EQ(held_out(30, {.share = 0.1}), 3U);
    EXPECT_EQ(held_out(31, {.share = 0.1}), 4U);
    EXPECT_EQ(held_out(100, {.share = 0.07}), 7U);  // 0.07 * 100 is 7.000000000000001
    EXPECT_EQ(held_out(5, {.share = 0.001}), 1U);
    EXPECT_EQ(held_out(5, {.rows = 4}), 4U);
}

TEST(HoldOut, EachRowIsTrainedOrHeldOut) {
    Dataset train = dataset(50);
    const std::vector<std::int64_t> chosen = hold_out(train, {.rows = 20}, 42);
    EXPECT_TRUE(std::is_sorted(chosen.begin(), chosen.end()));
    std::vector<std::int64_t> all = numbers(train);
    EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
    all.insert(all.end(), chosen.begin(), chosen.end());
    std::sort(all.begin(), all.end());
    EXPECT_EQ(all, numbers(dataset(50)));
}

TEST(HoldOut, RowsThatAreTrainedTooAreCounted) {
    Dataset train = dataset(20);
    for (Example& example : train.examples) example.ids = {static_cast<tokenizer::TokenId>(example.row % 10)};
    const std::vector<std::int64_t> chosen = hold_out(train, {.rows = 6}, 42);
    std::int64_t twins = 0;  // each row stands twice
    for (const std::int64_t row : chosen)
        twins += std::binary_search(chosen.begin(), chosen.end(), (row + 10) % 20) ? 0 : 1;
    EXPECT_GT(twins, 0);
    EXPECT_EQ(train.statistics.held_out_repeats, twins);

    Dataset apart = dataset(20);
    for (Example& example : apart.examples) example.ids = {static_cast<tokenizer::TokenId>(example.row)};
    hold_out(apart, {.rows = 6}, 42);
    EXPECT_EQ(apart.statistics.held_out_repeats, 0);
}

TEST(HoldOut, TheStatisticsAreOfWhatIsLeft) {
    Dataset train = dataset(4);
    train.examples[3].truncated = true;
    train.statistics.truncated = 1;
    const std::vector<std::int64_t> chosen = hold_out(train, {.rows = 3}, 42);
    ASSERT_EQ(train.examples.size(), 1U);
    const Example& left = train.examples[0];
    const DatasetStatistics& statistics = train.statistics;
    EXPECT_EQ(statistics.read, 4);
    EXPECT_EQ(statistics.kept, 1);
    EXPECT_EQ(statistics.held_out, 3);
    EXPECT_EQ(statistics.tokens, left.tokens());
    EXPECT_EQ(statistics.longest, left.tokens());
    EXPECT_EQ(statistics.supervised_tokens, left.supervised_tokens());
    EXPECT_EQ(statistics.truncated, left.row == 3 ? 1 : 0);
    EXPECT_EQ(summary_line(statistics), "read 4 = kept 1 + held out 3 + dropped 0 + rejected 0");
}

TEST(HoldOut, TheSeedChoosesAndEveryRowIsAsLikely) {
    constexpr int kSeeds = 4000;
    std::vector<int> times(10);
    std::set<std::vector<std::int64_t>> choices;
    for (int seed = 0; seed < kSeeds; ++seed) {
        Dataset train = dataset(10), again = dataset(10);
        const auto chosen = hold_out(train, {.rows = 3}, static_cast<std::uint64_t>(seed));
        EXPECT_EQ(chosen, hold_out(again, {.rows = 3}, static_cast<std::uint64_t>(seed)));
        for (const std::int64_t number : chosen) ++times[static_cast<std::size_t>(number)];
        choices.insert(chosen);
    }
    EXPECT_EQ(choices.size(), 120U);  // 3 of 10
    // Binomial with mean 1200 and deviation 29: five deviations.
    for (const int count : times) EXPECT_NEAR(count, 1200, 145);
}

TEST(HoldOut, RowsToTrainOnMustBeLeft) {
    const auto message = [](std::int64_t rows, const RowPart& part) -> std::string {
        try {
            held_out(rows, part);
        } catch (const ConfigError& error) {
            return error.what();
        }
        return {};
    };
    EXPECT_EQ(message(8, {.rows = 9}),
              "data.eval: holding out 9 rows leaves none to train on: the training files have 8 that can be "
              "used");
    EXPECT_NE(message(8, {.rows = 8}), "");
    EXPECT_EQ(message(8, {.rows = 7}), "");
    EXPECT_NE(message(8, {.share = 0.99}), "");
    EXPECT_NE(message(1, {.share = 0.01}), "");
}

class RowsOfFiles : public testing::Test {
  protected:
    RowsOfFiles() {
        write_file(first_, numbered_row(0) + numbered_row(1) + "no row\n" + numbered_row(3));
        write_file(second_, numbered_row(4) + numbered_row(5));
        config_.on_bad_row = OnBadRow::kSkip;
    }
    Dataset load(const RowReading& reading = {}) const {
        return load_dataset({first_, second_}, config_, template_, 0, reading);
    }

    TempDir folder_;
    std::filesystem::path first_ = folder_ / "first.jsonl", second_ = folder_ / "second.json";
    FakeTokenizer tokenizer_;
    PromptTemplate template_{TemplateName::kNone, std::nullopt, tokenizer_, tokenizer_.special()};
    DataConfig config_;
};

TEST_F(RowsOfFiles, OnlyRowsThatCanBeUsedAreHeldOut) {
    config_.max_length = 8;
    write_file(second_, numbered_row(4) + numbered_row(500));  // "row 500500" and its end are 11 tokens
    for (int seed = 0; seed < 20; ++seed) {
        Dataset train = load();
        ASSERT_EQ(numbers(train), (std::vector<std::int64_t>{0, 1, 3, 4}));
        const std::vector<std::int64_t> chosen =
            hold_out(train, {.rows = 3}, static_cast<std::uint64_t>(seed));
        EXPECT_EQ(std::set<std::int64_t>(chosen.begin(), chosen.end()).count(2), 0U);
        EXPECT_EQ(std::set<std::int64_t>(chosen.begin(), chosen.end()).count(5), 0U);
    }
}

TEST_F(RowsOfFiles, TheChosenOnesAreReadAloneWithTheirTexts) {
    const Dataset all = load();
    for (const std::int64_t threads : {1, 7}) {
        const std::vector<std::int64_t> only = {1, 3};
        const Dataset chosen = load({.threads = threads, .only = &only});  // none of the second file
        ASSERT_EQ(numbers(chosen), only);
        for (const std::size_t i : {0U, 1U}) {
            EXPECT_EQ(chosen.examples[i].ids, all.examples[i + 1].ids);
            EXPECT_EQ(chosen.examples[i].place, all.examples[i + 1].place);
            EXPECT_EQ(chosen.examples[i].expected, std::to_string(only[i]));
        }
        EXPECT_EQ(chosen.statistics.read, 2);
        EXPECT_EQ(chosen.fingerprint, all.fingerprint);
        EXPECT_TRUE(chosen.rejected.empty());
    }
    // Other rows are not even parsed.
    config_.on_bad_row = OnBadRow::kStop;
    const std::vector<std::int64_t> only = {5};
    EXPECT_EQ(load({.only = &only}).examples.at(0).place, second_.string() + ":2");
    const std::vector<std::int64_t> bad = {2, 5};
    EXPECT_THROW(load({.only = &bad}), DataError);
}

TEST(ListRows, NumbersAreListedUpToTheMost) {
    EXPECT_EQ(list_rows(dataset(3).examples, 3), "  0, 1, 2\n");
    EXPECT_EQ(list_rows(dataset(3).examples, 2), "  0, 1 and 1 more\n");
    const std::string many = list_rows(dataset(100).examples, 1000);
    EXPECT_NE(many.find(",\n  "), std::string::npos) << many;
    EXPECT_EQ(many.find(" more"), std::string::npos);
}

}  // namespace
