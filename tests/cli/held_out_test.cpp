// Rows held out of the training file: whole runs of qlora-train and qlora-eval on a tiny model, in this
// process.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <sstream>

#include "support/train_runs.h"

namespace qlora::cli {
namespace {

using test::Settings;
using test::TrainOutcome;
using Rows = std::vector<std::int64_t>;

class HeldOutRun : public testing::Test {
  protected:
    /// Rows in the order of an epoch are logged.
    TrainOutcome run(const std::string& eval, Settings settings = {}) {
        settings.push_back("data.eval=" + eval);
        settings.push_back("training.log_rows=true");
        return runs_.run(settings);
    }
    /// What the last run says that it held out.
    Rows kept() const { return read_json_file(runs_.output() / "held_out_rows.json").at("rows").get<Rows>(); }
    Rows evaluated(const Settings& settings, const std::vector<std::string>& flags = {}) {
        const std::string file = runs_.path("tokens.jsonl");
        std::filesystem::remove(file);
        std::vector<std::string> words = {"--per-token", file};
        words.insert(words.end(), flags.begin(), flags.end());
        outcome_ = runs_.evaluate(words, settings);
        Rows rows;
        if (outcome_.code != 0) return rows;
        std::istringstream lines(test::read_file(file));
        for (std::string line; std::getline(lines, line);)
            rows.push_back(parse_json(line, file).at("row").get<std::int64_t>());
        return rows;
    }

    test::TrainRuns runs_;
    TrainOutcome outcome_;
};

TEST_F(HeldOutRun, rows_are_listed_never_trained_and_shown) {
    const TrainOutcome outcome = run("3");
    ASSERT_EQ(outcome.code, 0) << outcome.log;
    Rows rows = kept();
    EXPECT_EQ(rows.size(), 3U);
    std::string list = "rows held out of the training files:\n ";
    for (const std::int64_t row : rows)
        list.append(" ").append(std::to_string(row)).append(row == rows.back() ? "\n" : ",");
    Rows all = outcome.rows();
    EXPECT_EQ(all.size(), 9U);
    all.insert(all.end(), rows.begin(), rows.end());
    std::sort(all.begin(), all.end());
    Rows expected(12);
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(all, expected);
    EXPECT_TRUE(outcome.says("training data: read 12 = kept 9 + held out 3")) << outcome.log;
    EXPECT_TRUE(outcome.says("held-out data: read 3 = kept 3")) << outcome.log;
    // The texts of the samples.
    std::istringstream lines(test::read_file(runs_.path("train.jsonl")));
    std::vector<std::string> answers;
    for (std::string line; std::getline(lines, line);)
        answers.push_back(parse_json(line, "").at("completion").get<std::string>());
    EXPECT_TRUE(outcome.says("expected:  " + answers.at(static_cast<std::size_t>(rows[0])) + "\n"))
        << outcome.log;

    EXPECT_NE(run("3", {"training.seed=7"}).code, 2);
    EXPECT_NE(kept(), rows);

    const TrainOutcome dry = runs_.again({"--dry-run"}, {"data.eval=3"});
    EXPECT_EQ(dry.code, 0) << dry.log;
    EXPECT_NE(dry.printed.find(list), std::string::npos) << list << dry.printed;
}

TEST_F(HeldOutRun, rows_are_the_same_after_resume_or_it_is_refused) {
    const std::string constant = "training.lr_scheduler_type=constant";  // whatever the number of steps
    const TrainOutcome whole = run("0.25", {constant});
    ASSERT_EQ(whole.code, 0) << whole.log;
    const Rows rows = kept();
    EXPECT_EQ(rows.size(), 3U);
    const TrainOutcome part = run("0.25", {constant, "training.max_steps=2"});
    EXPECT_EQ(part.code, 0) << part.log;
    for (const char* other : {"4", "null"}) {
        const TrainOutcome refused = runs_.again({"--resume"}, {std::string("data.eval=") + other, constant});
        EXPECT_EQ(refused.code, 2);
        EXPECT_TRUE(refused.says("data.eval: 0.25 in the run, " + std::string(other) + " now"))
            << refused.log;
    }
    const TrainOutcome resumed = runs_.again({"--resume"}, {"data.eval=0.25", constant});
    EXPECT_EQ(resumed.code, 0) << resumed.log;
    EXPECT_EQ(kept(), rows);
    EXPECT_TRUE(resumed.adapter_values == whole.adapter_values);
    EXPECT_TRUE(part.adapter_values != whole.adapter_values);
}

TEST_F(HeldOutRun, rows_are_evaluated_by_the_same_file) {
    const Settings settings = {"data.eval=3", "training.log_rows=true"};
    // Before the run has begun: those that it will hold out.
    ASSERT_EQ(runs_.run({"data.eval=99"}).code, 2);
    const Rows before = evaluated(settings, {"--base-only"});
    EXPECT_EQ(outcome_.code, 0) << outcome_.log;
    EXPECT_EQ(evaluated(settings, {"--base-only", "--max-length", "20"}), Rows{});
    EXPECT_EQ(outcome_.code, 2);
    EXPECT_TRUE(outcome_.says("the run has not begun")) << outcome_.log;
    const TrainOutcome outcome = runs_.again({}, settings);
    ASSERT_EQ(outcome.code, 0) << outcome.log;
    EXPECT_EQ(before, kept());
    EXPECT_EQ(evaluated(settings), kept());
    const Json last = outcome.metrics.back();
    EXPECT_NEAR(parse_json(outcome_.printed, "").at("loss").get<double>(), last.at("eval_loss").get<double>(),
                1e-6)
        << "the same rows, in other batches";
    // Rows stay the same where flags change how they are encoded.
    EXPECT_EQ(evaluated(settings, {"--template", "chatml"}), kept());

    EXPECT_EQ(evaluated({"data.eval=4"}), Rows{});
    EXPECT_EQ(outcome_.code, 2);
    EXPECT_TRUE(outcome_.says("the run held out rows by data.eval 3 and training.seed 42")) << outcome_.log;
    test::write_file(runs_.path("train.jsonl"), test::read_file(runs_.path("other_train.jsonl")));
    EXPECT_EQ(evaluated(settings), Rows{});
    EXPECT_EQ(outcome_.code, 2);
    EXPECT_TRUE(outcome_.says("the training files have changed")) << outcome_.log;

    ASSERT_EQ(runs_.run({}).code, 0);
    EXPECT_EQ(evaluated(settings), Rows{});
    EXPECT_EQ(outcome_.code, 2);
    EXPECT_TRUE(outcome_.says("held no rows out of its training files")) << outcome_.log;
}

TEST_F(HeldOutRun, rows_that_leave_none_to_train_on_are_one_sentence) {
    const TrainOutcome outcome = run("12");
    EXPECT_EQ(outcome.code, 2);
    EXPECT_TRUE(outcome.says("data.eval: holding out 12 rows leaves none to train on")) << outcome.log;
    EXPECT_FALSE(std::filesystem::exists(runs_.output()));
}

}  // namespace
}  // namespace qlora::cli
