// Bottlenecks in a whole run: what is saved and resumed.
#include <gtest/gtest.h>

#include "tiny_run.h"

namespace qlora {
namespace {

using test::TempDir;
using test::TinyRun;

adapters::PeftConfig dropping_bottlenecks() {
    adapters::BottleneckConfig config;
    config.config = adapters::BottleneckKind::kDoubleSeq;
    config.reduction_factor.emplace(8.0);
    config.dropout = 0.1;
    return config;
}

TEST(BottleneckRun, resumed_at_each_step_ends_with_the_same_bits) {
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
        const TempDir folder;
        TinyRun whole(folder, compute, dropping_bottlenecks());
        const std::vector<at::Tensor> start = whole.values();
        whole.training.save_steps = 1;
        whole.training.save_total_limit = std::nullopt;
        whole.run();
        ASSERT_FALSE(test::equal(whole.values(), start));
        for (std::int64_t step = 1; step < whole.training.max_steps; ++step) {
            const TempDir model;
            TinyRun resumed(model, compute, dropping_bottlenecks());
            test::AfterStep callback({});
            train::Trainer trainer = resumed.trainer(callback);
            trainer.resume_from(whole.training.output_dir / "checkpoints" / ("step-" + std::to_string(step)));
            EXPECT_FALSE(trainer.has_result());
            trainer.run();
            EXPECT_TRUE(test::equal(resumed.values(), whole.values())) << step;
        }
    }
}

TEST(BottleneckRun, knows_its_result_by_the_file_that_it_writes) {
    const TempDir folder;
    TinyRun run(folder, at::kFloat, dropping_bottlenecks());
    run.training.save_steps = 8;
    run.run();
    EXPECT_TRUE(std::filesystem::exists(run.training.output_dir / "adapter" / "adapter.safetensors"));
    const TempDir model;
    TinyRun again(model, at::kFloat, dropping_bottlenecks());
    again.training = run.training;
    test::AfterStep callback({});
    train::Trainer trainer = again.trainer(callback);
    trainer.resume_from(run.training.output_dir / "checkpoints" / "step-8");
    EXPECT_TRUE(trainer.has_result());
}

TEST(BottleneckRun, learns) {
    const TempDir folder;
    TinyRun run(folder, at::kFloat, dropping_bottlenecks());
    std::vector<double> losses;
    run.training.max_steps = 40;
    run.run([&](const train::StepReport& report) { losses.push_back(report.loss); });
    EXPECT_LT(losses.back(), 0.8 * losses.front());
}

}  // namespace
}  // namespace qlora
