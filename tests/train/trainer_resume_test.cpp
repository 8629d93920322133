#include <gtest/gtest.h>
#include <signal.h>

#include "qlora/train/run_checkpoint.h"
#include "qlora/train/stop_signal.h"
#include "tiny_run.h"

namespace qlora {
namespace {

using test::read_file;
using test::TempDir;
using test::TinyRun;

/// Stands for the death of the process.
struct Killed {};

/// Acts at chosen moments of a run.
struct Moments : train::Callback {
    std::function<void(std::int64_t)> step, evaluation;
    void on_step(const train::StepReport& report) override {
        if (step) step(report.step);
    }
    void on_evaluation(std::int64_t at, const eval::EvalSums&, bool) override {
        if (evaluation) evaluation(at);
    }
};

/// The lines without what the clock decides.
std::vector<Json> lines_of(const TinyRun& run) {
    std::vector<Json> out;
    std::istringstream lines(read_file(run.training.output_dir / "metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
        Json value = parse_json(line, "metrics.jsonl");
        for (const char* key : {"tokens_per_second", "step_time", "memory_bytes"}) value.erase(key);
        out.push_back(std::move(value));
    }
    return out;
}

void configure(TinyRun& run) {
    run.evaluates = true;
    run.training.eval_steps = 2;
    run.training.save_steps = 5;
}

/// Goes on from the newest checkpoint in a new process's place: model and optimizer start anew.
train::RunSummary resume(const TempDir& model_folder, const TinyRun& before, Moments& moments) {
    TinyRun run(model_folder);
    configure(run);
    run.training.output_dir = before.training.output_dir;
    train::Trainer trainer = run.trainer(moments);
    const auto checkpoint = train::newest_whole_checkpoint(run.training.output_dir / "checkpoints");
    if (checkpoint) trainer.resume_from(checkpoint->path);
    return trainer.run();
}

class StoppedBeforeEvaluation : public ::testing::TestWithParam<std::int64_t> {};

TEST_P(StoppedBeforeEvaluation, and_killed_after_it_the_run_has_its_line_once) {
    const std::int64_t stop = GetParam();
    const TempDir reference_folder, folder, again;
    TinyRun reference(reference_folder), run(folder);
    configure(reference);
    configure(run);
    reference.run();
    {
        const train::StopSignal signals;
        Moments moments;
        moments.step = [&](std::int64_t step) {
            if (step == stop) ::raise(SIGTERM);
        };
        train::Trainer trainer = run.trainer(moments);
        const train::RunSummary summary = trainer.run();
        EXPECT_EQ(summary.signal, SIGTERM);
        EXPECT_EQ(summary.steps, stop);
        EXPECT_TRUE(trainer.state().boundary_pending);
    }
    const train::StopSignal signals;
    Moments killer;
    killer.evaluation = [](std::int64_t) { throw Killed(); };
    for (int times = 0; times < 2; ++times) EXPECT_THROW(resume(again, run, killer), Killed);
    EXPECT_EQ(lines_of(run).back().at("step"), stop);
    EXPECT_TRUE(lines_of(run).back().contains("eval_loss")) << "the killed process had written it";
    Moments quiet;
    const train::RunSummary summary = resume(again, run, quiet);
    EXPECT_EQ(summary.steps, 8);
    EXPECT_EQ(lines_of(run), lines_of(reference));
    const char* result = "adapter/adapter_model.safetensors";
    EXPECT_EQ(read_file(run.training.output_dir / result), read_file(reference.training.output_dir / result));
}

INSTANTIATE_TEST_SUITE_P(EachEvaluation, StoppedBeforeEvaluation, ::testing::Values(2, 4, 6, 8));

TEST(TrainerResume, killed_after_the_first_evaluation_the_run_has_its_line_once) {
    const TempDir reference_folder, folder, again;
    TinyRun reference(reference_folder), run(folder);
    configure(reference);
    configure(run);
    const train::StopSignal signals;  // forgets what earlier tests received
    reference.run();
    Moments killer;
    killer.evaluation = [](std::int64_t) { throw Killed(); };
    for (int times = 0; times < 2; ++times) EXPECT_THROW(resume(again, run, killer), Killed);
    EXPECT_EQ(lines_of(run).size(), 1U);
    Moments quiet;
    resume(again, run, quiet);
    EXPECT_EQ(lines_of(run), lines_of(reference));
}

}  // namespace
}  // namespace qlora
