// A whole run on kernels of a device, emulated.
#include "device/emulated.h"

#include <gtest/gtest.h>

#include "qlora/ops/device.h"
#include "train/tiny_run.h"

namespace qlora {
namespace {

using test::TempDir;
using test::TinyRun;

struct Course {
    std::vector<double> losses;
    std::vector<at::Tensor> values;
};

Course train(const train::OptimizerType optimizer, std::int64_t steps,
             const at::ScalarType compute = at::kFloat,
             const std::optional<adapters::PeftConfig>& peft = std::nullopt) {
    const TempDir folder;
    TinyRun run(folder, compute, peft);
    run.training.optim = optimizer;
    run.training.max_steps = steps;
    run.evaluates = true;
    Course course;
    run.run([&](const train::StepReport& report) { course.losses.push_back(report.loss); });
    course.values = run.values();
    return course;
}

class EmulatedTrainer : public testing::TestWithParam<train::OptimizerType> {};
INSTANTIATE_TEST_SUITE_P(Optimizers, EmulatedTrainer,
                         testing::Values(train::OptimizerType::kAdamwTorch,
                                         train::OptimizerType::kAdamw8bit));

TEST_P(EmulatedTrainer, ten_steps_give_the_losses_of_the_cpu) {
    constexpr std::int64_t kSteps = 10;
    const Course cpu = train(GetParam(), kSteps);
    const ops::CpuKernelsGuard guard(kernels::emulated::kernel_table());
    const Course device = train(GetParam(), kSteps);
    ASSERT_EQ(cpu.losses.size(), static_cast<std::size_t>(kSteps));
    ASSERT_EQ(device.losses.size(), cpu.losses.size());
    for (std::size_t step = 0; step < cpu.losses.size(); ++step) {
        // fp32 sums in another order; ten updates pass them on.
        EXPECT_NEAR(device.losses[step] / cpu.losses[step], 1.0, 1e-5) << "step " << step + 1;
    }
    EXPECT_LT(cpu.losses.back(), cpu.losses.front()) << "nothing was learned";
    EXPECT_FALSE(test::equal(cpu.values, device.values)) << "did the kernels run?";
}

TEST_P(EmulatedTrainer, a_resumed_run_has_the_same_bits) {
    const ops::CpuKernelsGuard guard(kernels::emulated::kernel_table());
    const auto values_after = [&](std::int64_t stop) {
        const TempDir folder;
        TinyRun first(folder);
        first.training.optim = GetParam();
        first.training.save_steps = stop;
        first.training.save_total_limit = std::nullopt;
        first.run();
        if (stop >= first.training.max_steps) return first.values();
        const TempDir model;
        TinyRun second(model);
        second.training = first.training;
        test::AfterStep callback({});
        train::Trainer trainer = second.trainer(callback);
        trainer.resume_from(first.training.output_dir / "checkpoints" / ("step-" + std::to_string(stop)));
        trainer.run();
        return second.values();
    };
    EXPECT_TRUE(test::equal(values_after(3), values_after(100)));
}

TEST(EmulatedBottlenecks, train_as_on_the_cpu) {
    adapters::BottleneckConfig config;
    config.config = adapters::BottleneckKind::kDoubleSeq;
    config.reduction_factor.emplace(4.0);
    config.dropout = 0.1;
    const Course cpu = train(train::OptimizerType::kAdamwTorch, 8, at::kFloat, config);
    const ops::CpuKernelsGuard guard(kernels::emulated::kernel_table());
    const Course device = train(train::OptimizerType::kAdamwTorch, 8, at::kFloat, config);
    for (std::size_t step = 0; step < cpu.losses.size(); ++step)
        EXPECT_NEAR(device.losses[step] / cpu.losses[step], 1.0, 1e-5) << "step " << step + 1;
    EXPECT_LT(cpu.losses.back(), cpu.losses.front()) << "nothing was learned";
    const Course half = train(train::OptimizerType::kAdamwTorch, 8, at::kHalf, config);
    for (std::size_t step = 0; step < cpu.losses.size(); ++step)
        EXPECT_NEAR(half.losses[step] / cpu.losses[step], 1.0, 1e-2) << "step " << step + 1;
}

TEST(EmulatedFloat16, trains_with_a_scaled_loss_and_resumes_with_the_same_bits) {
    const Course cpu = train(train::OptimizerType::kAdamwTorch, 8);
    const ops::CpuKernelsGuard guard(kernels::emulated::kernel_table());
    const Course half = train(train::OptimizerType::kAdamwTorch, 8, at::kHalf);
    for (std::size_t step = 0; step < cpu.losses.size(); ++step) {
        // Roundings of 2^-11 through two layers, passed on by eight updates.
        EXPECT_NEAR(half.losses[step] / cpu.losses[step], 1.0, 1e-2) << "step " << step + 1;
    }
    const TempDir folder, model;
    TinyRun first(folder, at::kHalf);
    first.training.save_steps = 3;
    first.training.save_total_limit = std::nullopt;
    first.run();
    EXPECT_TRUE(test::equal(first.values(), half.values));
    const std::filesystem::path checkpoint = first.training.output_dir / "checkpoints" / "step-3";
    const Json saved = read_json_file(checkpoint / "run_state.json");
    EXPECT_EQ(saved.at("state").at("loss_scale"), train::LossScaler::kFirstScale);
    EXPECT_EQ(saved.at("state").at("steps_at_loss_scale"), 3);
    TinyRun second(model, at::kHalf);
    second.training = first.training;
    test::AfterStep callback({});
    train::Trainer trainer = second.trainer(callback);
    trainer.resume_from(checkpoint);
    trainer.run();
    EXPECT_TRUE(test::equal(second.values(), half.values));
}

}  // namespace
}  // namespace qlora
