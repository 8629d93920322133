// Rules of the loop that no figure of a usual run shows.

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "qlora/core/error.h"
#include "qlora/train/run_checkpoint.h"
#include "qlora/train/stop_signal.h"
#include "tiny_run.h"

namespace qlora {
namespace {

using test::read_file;
using test::TempDir;
using test::TinyRun;

constexpr const char* kWeights = "adapter_model.safetensors";

/// All lora_B after one step that is linear in the gradient, whose norm is multiplied by `factor`; the norm
/// before clipping goes to `norm`.
std::vector<at::Tensor> b_after_linear_step(double max_grad_norm, double factor, double& norm) {
    const TempDir folder;
    TinyRun run(folder);
    run.training.max_steps = 1;
    run.training.max_grad_norm = max_grad_norm;
    run.training.adam_epsilon = 1;  // far above any gradient
    for (const nn::Parameter& each : run.adaptation.parameters) {
        each.tensor.register_hook([factor](const at::Tensor& gradient) { return gradient * factor; });
    }
    run.run();
    norm = run.metrics().at(1).at("grad_norm").get<double>();
    std::vector<at::Tensor> out;
    for (const nn::Parameter& each : run.adaptation.parameters) {
        if (each.key.ends_with("lora_B.weight")) out.push_back(each.tensor.detach().clone());
    }
    return out;
}

TEST(Clipping, adds_torchs_1e_6_to_the_norm) {
    double norm = 0;
    b_after_linear_step(0, 1, norm);
    const double factor = 1e-6 / norm;  // the addend is as large as the norm
    const std::vector<at::Tensor> whole = b_after_linear_step(0, factor, norm);
    EXPECT_NEAR(norm / 1e-6, 1, 1e-3);
    const std::vector<at::Tensor> clipped = b_after_linear_step(1e-6, factor, norm);
    for (std::size_t i = 0; i < whole.size(); ++i) {
        const double ratio = (clipped[i].norm() / whole[i].norm()).item<double>();
        EXPECT_NEAR(ratio, 1e-6 / (norm + 1e-6), 1e-4) << i;  // fp32 rounding is far below
    }
}

TEST(Clipping, is_off_at_0) {
    double norm = 0;
    const std::vector<at::Tensor> off = b_after_linear_step(0, 1, norm);
    EXPECT_TRUE(test::equal(off, b_after_linear_step(1e9, 1, norm)));
    EXPECT_TRUE(off.front().any().item<bool>());
}

TEST(StopSignal, is_seen_after_a_micro_batch) {
    const TempDir folder;
    TinyRun run(folder);
    const train::StopSignal signals;
    int micro_batches = 0;
    run.parameter("lora_B.weight").register_hook([&](const at::Tensor& gradient) {
        if (++micro_batches == 5) ::raise(SIGTERM);  // the first of two of step 3
        return gradient;
    });
    const train::RunSummary summary = run.run();
    EXPECT_EQ(summary.signal, SIGTERM);
    EXPECT_EQ(summary.steps, 2);
    EXPECT_EQ(micro_batches, 5);
}

TEST(Saving, a_new_best_between_two_saves_is_kept_and_is_the_result) {
    const TempDir folder;
    TinyRun run(folder);
    run.evaluates = true;
    run.training.eval_steps = 2;
    run.training.load_best_model_at_end = true;
    const train::RunSummary summary = run.run([&](const train::StepReport& report) {
        const at::AutoGradMode no_gradients(false);
        if (report.step == 5) run.parameter("layers.1.mlp.down_proj.lora_B.weight").mul_(-50);
    });
    ASSERT_EQ(summary.best_step, 4);
    const std::filesystem::path best = run.training.output_dir / "checkpoints/step-4";
    EXPECT_EQ(train::folder_fault(best), "");
    EXPECT_EQ(read_file(run.training.output_dir / "adapter" / kWeights), read_file(best / kWeights));
}

TEST(Saving, a_last_save_that_failed_is_no_success) {
    const TempDir folder;
    TinyRun run(folder);
    run.training.max_steps = 1;
    test::write_file(run.training.output_dir / "checkpoints", "in the way");
    try {
        run.run();
        FAIL() << "the run ended well";
    } catch (const ResourceError& error) {
        EXPECT_NE(std::string(error.what()).find("the last save failed"), std::string::npos) << error.what();
    }
    EXPECT_TRUE(std::filesystem::exists(run.training.output_dir / "adapter" / kWeights));
}

}  // namespace
}  // namespace qlora
