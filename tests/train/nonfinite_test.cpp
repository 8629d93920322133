// Faults that no file can carry: bad gradients, parameters and moments inside a run.

#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <limits>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/train/run_checkpoint.h"
#include "support/captured_log.h"
#include "tiny_run.h"

namespace qlora {
namespace {

using test::TempDir;
using test::TinyRun;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

/// Makes one element of a parameter's gradient bad while `is_due` says so.
void poison_gradient(const at::Tensor& parameter, float value, std::function<bool()> is_due) {
    parameter.register_hook([value, is_due = std::move(is_due)](const at::Tensor& gradient) {
        at::Tensor out = gradient.clone();
        if (is_due()) out.view(-1)[0] = value;
        return out;
    });
}

template <class Function>
std::string message_of(Function&& function) {
    try {
        function();
    } catch (const NonFiniteError& error) {
        return error.what();
    }
    return {};
}

TEST(NonFinite, one_bad_gradient_value_makes_no_update_on_that_very_step) {
    for (const float value : {kNan, kInf, -kInf}) {
        for (const std::int64_t bad_step : {1, 2, 5, 8}) {
            const TempDir folder;
            TinyRun run(folder);
            std::int64_t done = 0;
            poison_gradient(run.parameter("layers.1.mlp.up_proj.lora_A.weight"), value,
                            [&] { return done + 1 == bad_step; });
            std::vector<at::Tensor> before = run.values();
            bool changed_nothing = false;
            const train::RunSummary summary = run.run([&](const train::StepReport& report) {
                done = report.step;
                if (done == bad_step) changed_nothing = test::equal(before, run.values());
                before = run.values();
            });
            EXPECT_TRUE(changed_nothing) << value << " at step " << bad_step;
            EXPECT_EQ(summary.steps, 8);
            for (const auto& [step, line] : run.metrics()) {
                EXPECT_EQ(line.at("loss").is_null(), step == bad_step) << line;
                EXPECT_EQ(line.at("grad_norm").is_null(), step == bad_step) << line;
            }
            EXPECT_EQ(train::folder_fault(run.training.output_dir / "adapter"), "");
        }
    }
}

TEST(NonFinite, a_fault_that_is_gone_when_recomputed_leaves_no_trace) {
    const TempDir clean_folder, folder;
    TinyRun clean(clean_folder), run(folder);
    clean.run();
    std::int64_t done = 0, faults = 0;
    poison_gradient(run.parameter("lora_B.weight"), kNan, [&] { return done == 3 && faults++ == 0; });
    run.run([&](const train::StepReport& report) { done = report.step; });
    EXPECT_GT(faults, 1) << "the step was computed twice";
    EXPECT_TRUE(test::equal(clean.values(), run.values()));
    EXPECT_EQ(clean.metrics().at(4).at("loss"), run.metrics().at(4).at("loss"));
}

TEST(NonFinite, a_good_step_resets_the_counter) {
    const TempDir folder;
    TinyRun run(folder);
    std::int64_t done = 0;
    poison_gradient(run.parameter("lora_A.weight"), kInf,
                    [&] { return done % 3 != 2; });  // steps 1 2, 4 5, 7 8
    const train::RunSummary summary = run.run([&](const train::StepReport& report) { done = report.step; });
    EXPECT_EQ(summary.steps, 8);
    std::int64_t bad = 0;
    for (const auto& [step, line] : run.metrics()) bad += line.at("loss").is_null() ? 1 : 0;
    EXPECT_EQ(bad, 6);
}

TEST(NonFinite, three_bad_steps_in_a_row_stop_the_run_and_keep_the_good_checkpoint) {
    for (const std::int64_t first : {2, 4, 6}) {
        const TempDir folder;
        TinyRun run(folder);
        run.training.save_steps = 1;
        run.training.save_total_limit = 1;
        std::int64_t done = 0;
        poison_gradient(run.parameter("lora_B.weight"), kNan, [&] { return done + 1 >= first; });
        const std::string message =
            message_of([&] { run.run([&](const train::StepReport& report) { done = report.step; }); });
        EXPECT_NE(message.find("stopped at step " + std::to_string(first + 2)), std::string::npos) << message;
        const auto checkpoints = train::list_checkpoints(run.training.output_dir / "checkpoints");
        ASSERT_EQ(checkpoints.size(), 1U);
        EXPECT_EQ(checkpoints[0].step, first - 1);
        EXPECT_EQ(train::folder_fault(checkpoints[0].path), "");
        EXPECT_FALSE(std::filesystem::exists(run.training.output_dir / "adapter"));
        EXPECT_TRUE(run.metrics().at(first + 2).at("loss").is_null());
    }
}

TEST(NonFinite, a_parameter_that_goes_bad_is_never_saved) {
    for (const float value : {kNan, kInf}) {
        for (const std::int64_t bad_step : {1, 3, 7}) {
            const TempDir folder;
            TinyRun run(folder);
            run.training.save_steps = 1;
            run.training.save_total_limit.reset();
            const std::string message = message_of([&] {
                run.run([&](const train::StepReport& report) {
                    const at::AutoGradMode no_gradients(false);
                    if (report.step == bad_step) run.parameter("o_proj.lora_A.weight").view(-1)[1] = value;
                });
            });
            EXPECT_NE(message.find("o_proj.lora_A.weight is not finite at step " + std::to_string(bad_step)),
                      std::string::npos)
                << message;
            const auto checkpoints = train::list_checkpoints(run.training.output_dir / "checkpoints");
            EXPECT_EQ(checkpoints.size(), static_cast<std::size_t>(bad_step - 1));
        }
    }
}

// The attention of LibTorch takes scores that are no numbers for masked ones, so that a bad query is seen in
// the gradients only.
TEST(NonFinite, a_parameter_that_goes_bad_is_found_by_the_very_next_step) {
    for (const char* key :
         {"q_proj.lora_B.weight", "v_proj.lora_A.weight", "layers.1.mlp.down_proj.lora_B.weight"}) {
        const TempDir folder;
        TinyRun run(folder);
        const std::string message = message_of([&] {
            run.run([&](const train::StepReport& report) {
                const at::AutoGradMode no_gradients(false);
                if (report.step == 3) run.parameter(key).view(-1)[0] = kNan;
            });
        });
        EXPECT_NE(message.find("stopped at step 6"), std::string::npos) << key << message;
        EXPECT_FALSE(run.metrics().at(3).at("loss").is_null());
        EXPECT_TRUE(run.metrics().at(4).at("loss").is_null());
        EXPECT_TRUE(train::list_checkpoints(run.training.output_dir / "checkpoints").empty());
    }
}

/// The checkpoint of step 2 with one value of one moment replaced, whole by its manifest.
std::filesystem::path checkpoint_with_moment(TinyRun& run, const std::string& key, float value) {
    run.training.max_steps = 2;
    run.run();
    const std::filesystem::path folder = run.training.output_dir / "checkpoints/step-2";
    const std::filesystem::path changed = run.training.output_dir / "checkpoints/step-3";
    train::write_folder_with_manifest(changed, [&](const std::filesystem::path& temporary) {
        for (const char* name : {"adapter_config.json", "adapter_model.safetensors", "run_state.json"}) {
            std::filesystem::copy_file(folder / name, temporary / name);
        }
        train::AdamW optimizer(run.adaptation.parameters, run.training);
        optimizer.load_state(folder / "optimizer.safetensors", 2);
        std::vector<nn::Parameter> state = optimizer.state();
        for (nn::Parameter& moment : state) {
            if (moment.key.ends_with(key)) moment.tensor.view(-1)[0] = value;
        }
        adapters::save_tensors(temporary / "optimizer.safetensors", state, {});
    });
    run.training.max_steps = 8;
    return changed;
}

TEST(NonFinite, a_moment_that_is_no_number_is_refused_when_a_run_goes_on) {
    for (const float value : {kNan, kInf}) {
        const TempDir folder;
        TinyRun run(folder);
        const auto checkpoint = checkpoint_with_moment(run, "up_proj.lora_A.weight", value);
        test::AfterStep callback({});
        train::Trainer trainer = run.trainer(callback);
        try {
            trainer.resume_from(checkpoint);
            FAIL() << "accepted";
        } catch (const CheckpointError& error) {
            EXPECT_NE(std::string(error.what()).find("up_proj.lora_A.weight"), std::string::npos)
                << error.what();
        }
    }
}

TEST(NonFinite, an_update_that_overflows_ends_the_run_on_that_very_step) {
    const TempDir folder;
    TinyRun run(folder);
    const auto checkpoint = checkpoint_with_moment(
        run, "exp_avg.base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", 3e38F);
    test::AfterStep callback({});
    train::Trainer trainer = run.trainer(callback);
    trainer.resume_from(checkpoint);
    const std::string message = message_of([&] { trainer.run(); });
    EXPECT_NE(message.find("stopped at step 3"), std::string::npos) << message;
    EXPECT_NE(message.find("layers.0.mlp.up_proj.lora_A.weight is not finite after the update"),
              std::string::npos)
        << message;
    EXPECT_NE(message.find("rows.jsonl:"), std::string::npos) << message;
}

/// Takes their gradient from the lora_B that `is_dead` chooses.
void deaden(const TinyRun& run, const std::function<bool(const std::string&)>& is_dead) {
    for (const nn::Parameter& each : run.adaptation.parameters) {
        if (!each.key.ends_with("lora_B.weight") || !is_dead(each.key)) continue;
        each.tensor.register_hook([](const at::Tensor& gradient) { return at::zeros_like(gradient); });
    }
}

TEST(NonFinite, adapters_of_which_none_gets_a_gradient_stop_the_run_at_its_first_update) {
    const TempDir folder;
    TinyRun run(folder);
    deaden(run, [](const std::string&) { return true; });
    // A gradient of A, which there is none of while B is zero, keeps the norm from being zero.
    run.parameter("lora_A.weight").register_hook([](const at::Tensor& gradient) {
        return at::ones_like(gradient);
    });
    const std::string message = message_of([&] { run.run(); });
    EXPECT_NE(message.find("14 of 14 lora_B are still zero"), std::string::npos) << message;
    EXPECT_NE(message.find("layers.0."), std::string::npos) << message;
    EXPECT_FALSE(std::filesystem::exists(run.training.output_dir / "metrics.jsonl"))
        << "the step was not even logged";
}

TEST(NonFinite, some_adapters_without_a_gradient_are_named_once_and_the_run_goes_on) {
    const TempDir folder;
    TinyRun run(folder);
    deaden(run, [](const std::string& key) { return key.find("q_proj") != std::string::npos; });
    const test::CapturedLog log;
    EXPECT_EQ(run.run().steps, 8);
    EXPECT_EQ(log.count("2 of 14 lora_B are still zero"), 1U) << log.text();
    EXPECT_EQ(log.count("layers.1.self_attn.q_proj.lora_B.weight"), 1U) << log.text();
}

TEST(NonFinite, after_the_first_update_every_b_has_moved) {
    const TempDir folder;
    TinyRun run(folder);
    run.training.max_steps = 1;
    run.run();
    std::int64_t count = 0;
    for (const nn::Parameter& parameter : run.adaptation.parameters) {
        if (!parameter.key.ends_with("lora_B.weight")) continue;
        ++count;
        EXPECT_TRUE(parameter.tensor.detach().any().item<bool>()) << parameter.key;
    }
    EXPECT_EQ(count, 14);
}

}  // namespace
}  // namespace qlora
