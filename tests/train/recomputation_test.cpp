#include <gtest/gtest.h>

#include "qlora/data/batch_plan.h"
#include "qlora/train/run_checkpoint.h"
#include "qlora/train/train_step.h"
#include "tiny_run.h"

namespace qlora {
namespace {

using nn::Recomputation;
using test::TempDir;
using test::TinyModel;
using test::TinyRun;

struct RecomputedCase {
    const char* name;
    TinyModel tiny;
    at::ScalarType compute = at::kFloat;
    adapters::BiasTraining bias = adapters::BiasTraining::kNone;
    adapters::NameList modules_to_save = {};
    adapters::LayerIndices layers = {};
    bool keeps_dense = false;
    double dropout = 0.2;
};

std::ostream& operator<<(std::ostream& out, const RecomputedCase& value) {
    return out << value.name;
}

RecomputedCase trained_whole(const char* name, adapters::NameList modules) {
    RecomputedCase out{name, {}};
    out.modules_to_save = std::move(modules);
    return out;
}

std::vector<data::Example> rows() {
    std::vector<data::Example> out(3);
    for (std::size_t row = 0; row < out.size(); ++row) {
        for (std::size_t i = 0; i < 9 + 7 * row; ++i) {
            out[row].ids.push_back(static_cast<tokenizer::TokenId>((5 + 13 * row + 17 * i) % 97));
            out[row].supervised.push_back(i > 4 ? 1 : 0);
        }
    }
    return out;
}

struct Gradients {
    double loss = 0.0;
    std::vector<at::Tensor> of_parameters;
};

Gradients gradients_of(const RecomputedCase& value, Recomputation level) {
    const TempDir dir;
    value.tiny.write(dir.path());
    const auto model = models::load_base(io::Checkpoint(dir.path()), models::load_decoder_spec(dir.path()),
                                         {.quantization = {}, .compute_dtype = value.compute});
    adapters::LoraConfig lora;
    lora.r = 3;
    lora.lora_dropout = value.dropout;
    lora.target_modules = "all-linear";
    lora.init_lora_weights = adapters::InitLoraWeights::kRandom;  // else every gradient of A is zero
    lora.bias = value.bias;
    if (!value.modules_to_save.empty()) lora.modules_to_save = value.modules_to_save;
    lora.layers_to_transform = value.layers;
    const adapters::Adaptation adaptation = adapters::inject(*model, lora, 1);
    model->keep_dense(value.keeps_dense);
    const data::StepPlan plan{.micro_batches = {{0, 1}, {2}}};
    const nn::ForwardContext context{.training = true, .recomputation = level, .seed = 4, .micro_step = 6};
    Gradients out{.loss = train::accumulate_gradients(*model, rows(), plan, context, 1.0, {}).loss};
    for (const nn::Parameter& parameter : adaptation.parameters) {
        out.of_parameters.push_back(parameter.tensor.grad());
    }
    return out;
}

class Levels : public ::testing::TestWithParam<RecomputedCase> {};
INSTANTIATE_TEST_SUITE_P(
    Models, Levels,
    ::testing::Values(
        RecomputedCase{"llama", {}},
        RecomputedCase{"llama_folded", {.tie = true}, at::kFloat, {}, {}, {}, false, 0.0},
        RecomputedCase{"llama_folded_kept", {.layers = 3}, at::kFloat, {}, {}, {}, true, 0.0},
        RecomputedCase{"llama_bf16", {}, at::kBFloat16},
        RecomputedCase{"llama_biases", {.bias = true}, at::kFloat, adapters::BiasTraining::kAll},
        RecomputedCase{"llama_biases_bf16", {.bias = true}, at::kBFloat16, adapters::BiasTraining::kAll},
        trained_whole("llama_whole_modules", {"norm", "embed_tokens", "lm_head"}),
        trained_whole("llama_trained_up", {"up_proj"}),
        RecomputedCase{"llama_upper_layer", {.layers = 3}, at::kFloat, {}, {}, std::int64_t{2}},
        RecomputedCase{"llama_lower_layer", {.layers = 3}, at::kFloat, {}, {}, std::int64_t{0}},
        RecomputedCase{"mistral_window", {.model_type = "mistral", .sliding_window = 5}},
        RecomputedCase{"qwen2_window", {.model_type = "qwen2", .sliding_window = 4}, at::kBFloat16},
        RecomputedCase{"qwen3", {.model_type = "qwen3", .kv_heads = 1, .bias = true}},
        RecomputedCase{
            "qwen3_bf16_kept", {.model_type = "qwen3", .tie = true}, at::kBFloat16, {}, {}, {}, true}),
    [](const auto& chosen) { return chosen.param.name; });

TEST_P(Levels, give_the_same_bits) {
    const Gradients none = gradients_of(GetParam(), Recomputation::kNone);
    ASSERT_GT(none.loss, 0.0);
    for (const Recomputation level : {Recomputation::kMlp, Recomputation::kLayers}) {
        const Gradients found = gradients_of(GetParam(), level);
        EXPECT_EQ(found.loss, none.loss);
        ASSERT_EQ(found.of_parameters.size(), none.of_parameters.size());
        for (std::size_t i = 0; i < none.of_parameters.size(); ++i) {
            ASSERT_TRUE(none.of_parameters[i].defined() && found.of_parameters[i].defined()) << i;
            EXPECT_TRUE(found.of_parameters[i].equal(none.of_parameters[i]))
                << enum_name(level) << ", parameter " << i;
        }
    }
}

/// Stands for the death of the process.
struct KilledHere {};

TEST(Recomputation, a_run_may_go_on_under_another_level) {
    const TempDir plain_folder, folder;
    TinyRun plain(plain_folder);
    plain.run();
    const std::vector<at::Tensor> expected = plain.values();

    std::filesystem::path output;
    std::vector<at::Tensor> found;
    std::map<std::int64_t, Json> lines;
    std::int64_t last_step = 3;
    for (const Recomputation level : {Recomputation::kNone, Recomputation::kMlp, Recomputation::kLayers}) {
        const TempDir model_folder;
        TinyRun run(model_folder);
        if (output.empty()) {
            output = folder / "run";
            std::filesystem::create_directory(output);
        }
        run.training.output_dir = output;
        run.training.save_steps = 1;
        run.recomputation = level;
        test::AfterStep callback([&](const train::StepReport& report) {
            if (report.step == last_step) throw KilledHere{};
        });
        train::Trainer trainer = run.trainer(callback);
        if (const auto checkpoint = train::newest_whole_checkpoint(output / "checkpoints")) {
            trainer.resume_from(checkpoint->path);
        }
        try {
            trainer.run();
        } catch (const KilledHere&) {
        }
        last_step += 3;
        found = run.values();
        lines = run.metrics();
    }
    EXPECT_TRUE(test::equal(found, expected));
    const std::map<std::int64_t, Json> expected_lines = plain.metrics();
    ASSERT_EQ(lines.size(), expected_lines.size());
    for (const auto& [step, line] : expected_lines) EXPECT_EQ(lines.at(step).at("loss"), line.at("loss"));
}

}  // namespace
}  // namespace qlora
