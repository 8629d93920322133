#include "cli/run_clock.h"

#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "support/temp_dir.h"
#include "support/train_runs.h"

namespace qlora::cli {
namespace {

TEST(RunClock, is_kept_to_the_microsecond) {
    const test::TempDir folder;
    const jinja::LocalTime began{
        .year = 2025, .month = 12, .day = 31, .hour = 23, .minute = 59, .second = 58, .microsecond = 7};
    write_run_clock(folder / "clock.json", began);
    const jinja::LocalTime read = run_clock(folder / "clock.json");
    EXPECT_EQ(std::tie(read.year, read.month, read.day), std::tie(began.year, began.month, began.day));
    EXPECT_EQ(std::tie(read.hour, read.minute, read.second, read.microsecond),
              std::tie(began.hour, began.minute, began.second, began.microsecond));
    EXPECT_GE(run_clock(folder / "none.json").year, 2026);
    test::write_file(folder / "clock.json", R"({"year": 2025, "month": "May"})");
    EXPECT_THROW(run_clock(folder / "clock.json"), CheckpointError);
}

/// A resumed run and an evaluation render what the run rendered, whatever the time is by then.
TEST(RunClock, a_resumed_run_and_its_evaluations_tell_the_time_of_its_beginning) {
    test::TrainRuns runs;
    const std::string template_file = runs.path("clock.jinja");
    test::write_file(template_file,
                     "{{ 'a' if strftime_now('%Y') == '1999' else 'b b' }}"
                     "{% for message in messages %}{{ message.content }}{% endfor %}");
    const test::Settings tells = {"data.template=" + template_file, "training.max_steps=3",
                                  "training.save_steps=2"};
    ASSERT_EQ(runs.run(tells).code, 0);
    const std::filesystem::path file = runs.output() / "template_clock.json";
    ASSERT_TRUE(std::filesystem::exists(file));
    const auto evaluated = [&] { return runs.evaluate({}, tells).printed; };
    const std::string before = evaluated();
    jinja::LocalTime clock = run_clock(file);
    clock.year = 1999;
    write_run_clock(file, clock);
    EXPECT_NE(evaluated(), before) << "the time that the folder keeps counts";
    const test::TrainOutcome resumed = runs.again({"--resume"}, tells);
    EXPECT_EQ(resumed.code, 0) << resumed.log;
    EXPECT_EQ(run_clock(file).year, 1999);
    ASSERT_EQ(runs.run({"training.max_steps=1"}).code, 0);
    EXPECT_FALSE(std::filesystem::exists(runs.output() / "template_clock.json"));
}

}  // namespace
}  // namespace qlora::cli
