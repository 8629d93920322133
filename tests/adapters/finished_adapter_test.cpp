#include "qlora/adapters/finished_adapter.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include "qlora/adapters/inject.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/adapters/plan.h"
#include "qlora/core/error.h"
#include "qlora/models/base_loader.h"
#include "support/tiny_model.h"

namespace qlora::adapters {
namespace {

/// An adapter on q_proj and v_proj of a tiny model, whose files are changed at will.
class FinishedAdapter : public testing::Test {
  protected:
    FinishedAdapter() {
        const test::TempDir model;
        const test::TinyModel tiny;
        tiny.write(model.path());
        config_ = models::load_decoder_spec(model.path());
        const auto loaded = models::load_base(io::Checkpoint(model.path()), config_, {});
        LoraConfig lora;
        lora.init_lora_weights = InitLoraWeights::kRandom;
        adaptation_ = inject(*loaded, lora, 1);
        save_adapter(folder_.path(), adaptation_, "base", {});
    }

    /// Changes adapter_config.json.
    void set(const std::string& key, const Json& value) {
        Json config = read_json_file(folder_ / kAdapterConfigFile);
        config[key] = value;
        test::write_file(folder_ / kAdapterConfigFile, config.dump());
    }
    /// Writes the tensors under other keys.
    void rename_keys(const std::function<std::string(std::string)>& rename) {
        std::vector<nn::Parameter> tensors = adaptation_.parameters;
        for (nn::Parameter& tensor : tensors) tensor.key = rename(tensor.key);
        tensors.insert(tensors.end(), extra_.begin(), extra_.end());
        save_tensors(folder_ / kAdapterWeightsFile, tensors, {});
    }
    void add_tensor(const std::string& key, at::IntArrayRef shape) {
        extra_.push_back({key, at::ones(shape)});
        rename_keys([](std::string same) { return same; });
    }

    /// Modules that the loaded configuration adapts, its tensors checked against the file's.
    std::vector<std::string> adapted() const {
        const AdapterFile file(folder_.path(), config_);
        const Plan plan = plan_adapter(load_finished_adapter(folder_.path(), file, config_), config_);
        std::vector<io::TensorSpec> expected;
        for (const TrainedTensor& tensor : plan.trained)
            expected.push_back({tensor.key, io::DType::kF32, tensor.shape});
        check_adapter_tensors(file, expected);
        std::vector<std::string> out;
        for (const Target& target : plan.targets) out.push_back(target.path);
        return out;
    }
    std::vector<std::string> all() const {
        std::vector<std::string> out;
        for (const Target& target : adaptation_.plan.targets) out.push_back(target.path);
        return out;
    }
    std::string fault() const {
        try {
            adapted();
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::kInput);
            return error.what();
        }
        return "nothing was thrown";
    }
    void expect_fault(const std::string& words) const {
        const std::string message = fault();
        EXPECT_NE(message.find(words), std::string::npos) << message;
    }

    test::TempDir folder_;
    models::DecoderSpec config_;
    Adaptation adaptation_;
    std::vector<nn::Parameter> extra_;
};

std::string replaced(std::string text, const std::string& from, const std::string& to) {
    const std::size_t at = text.find(from);
    return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST_F(FinishedAdapter, KeysWithTheAdaptersNameInThemAreTheSame) {
    rename_keys([](std::string key) {
        return replaced(replaced(key, "lora_A.weight", "lora_A.default.weight"), "lora_B.weight",
                        "lora_B.default.weight");
    });
    EXPECT_EQ(adapted(), all());
    const AdapterFile file(folder_.path(), config_);
    for (const nn::Parameter& parameter : adaptation_.parameters)
        EXPECT_TRUE(file.find(parameter.key)->name.find(".default.") != std::string::npos);
    // Both spellings of one tensor contradict each other.
    extra_.push_back(adaptation_.parameters.front());
    rename_keys([](std::string key) { return replaced(key, "lora_A.weight", "lora_A.default.weight"); });
    expect_fault("is the same tensor as ");
}

TEST_F(FinishedAdapter, ADecoderSavedWithoutItsHeadHasShorterKeys) {
    rename_keys(
        [](std::string key) { return replaced(key, "base_model.model.model.", "base_model.model."); });
    set("task_type", "FEATURE_EXTRACTION");
    EXPECT_EQ(adapted(), all());
}

/// An adapter of a model of pictures and text: PEFT adapts the vision tower's linears of the same names too.
TEST_F(FinishedAdapter, WhatBelongsToAnotherPartOfTheModelIsSetAside) {
    config_.foreign = {"vision_tower.", "model.vision_tower."};
    add_tensor("base_model.model.model.vision_tower.layers.0.q_proj.lora_B.weight", {4, 8});
    EXPECT_EQ(adapted(), all());
    const AdapterFile file(folder_.path(), config_);
    ASSERT_EQ(file.foreign().size(), 1U);
    EXPECT_EQ(file.foreign().front()->name,
              "base_model.model.model.vision_tower.layers.0.q_proj.lora_B.weight");
}

/// Saved by a version of transformers that had other module paths.
TEST_F(FinishedAdapter, ModulesMayHaveAnyNameThatACheckpointGivesThem) {
    config_.renames = {{"model.", "language_model.model."}};
    rename_keys([](std::string key) {
        return replaced(key, "base_model.model.model.", "base_model.model.language_model.model.");
    });
    EXPECT_EQ(adapted(), all());
}

TEST_F(FinishedAdapter, WhatOnlySaidHowTrainingBeganIsPassedOver) {
    for (const char* start : {"orthogonal", "eva", "gaussian"}) {
        set("init_lora_weights", start);
        EXPECT_EQ(adapted(), all()) << start;
    }
    set("init_lora_weights", "eva");
    set("eva_config", {{"rho", 2.0}});
    EXPECT_EQ(adapted(), all());
}

TEST_F(FinishedAdapter, AnAdapterOfAChangedBaseIsRefusedByName) {
    for (const char* start : {"pissa", "pissa_niter_16", "olora", "loftq", "corda", "lora_ga"}) {
        set("init_lora_weights", start);
        if (std::string(start) == "loftq") set("loftq_config", {{"loftq_bits", 4}});
        expect_fault("init_lora_weights: \"" + std::string(start) + "\" ");
        EXPECT_EQ(fault().find("\n"), std::string::npos) << "one fault, one sentence";
        EXPECT_THROW(load_adapter_config(folder_.path()), CheckpointError);
    }
    set("init_lora_weights", true);
    set("loftq_config", Json::object());
    set("kasa_config", {{"beta", 1e-4}});
    expect_fault("kasa_config: KaSA");
}

TEST_F(FinishedAdapter, AForeignTaskPassesWithoutAHeadAndNotWithOne) {
    set("task_type", "SEQ_CLS");
    EXPECT_EQ(adapted(), all());
    EXPECT_THROW(load_adapter_config(folder_.path()), CheckpointError)
        << "training goes on from our own task only";
    add_tensor("base_model.model.score.weight", {2, 32});
    expect_fault(
        "task_type: \"SEQ_CLS\": the file holds tensors that a causal language model does not have "
        "(\"base_model.model.score.weight\")");
}

TEST_F(FinishedAdapter, NamesThatMatchNothingDoNotStopTensorsThatDo) {
    set("target_modules", Json::array({"query_key_value", "q_proj"}));
    EXPECT_EQ(adapted(), all());
    set("target_modules", "transformer\\.h\\.\\d+\\.attn");
    EXPECT_EQ(adapted(), all());
    set("modules_to_save", Json::array({"classifier"}));
    EXPECT_EQ(adapted(), all());
    EXPECT_THROW(plan_adapter(load_adapter_config(folder_.path()), config_), ConfigError);
}

TEST_F(FinishedAdapter, WhereAllNamesFitTheyAreStrict) {
    set("target_modules", Json::array({"q_proj"}));
    expect_fault("v_proj.lora_A.weight: is not a parameter that this adapter_config.json trains");
    set("target_modules", Json::array({"q_proj", "v_proj", "k_proj"}));
    expect_fault("k_proj.lora_A.weight: is missing");
    set("target_modules", Json::array({"query_key_value"}));
    rename_keys([](std::string key) { return replaced(key, "self_attn", "attn"); });
    expect_fault("\"query_key_value\" matches no module of the model");
}

/// PEFT sets it by what it wraps, Conv1D or bitsandbytes' linear.
TEST(InjectedAdapter, SaysOfDenseWeightsThatTheyAreStoredInColumns) {
    const test::TempDir dir;
    const test::TinyModel tiny;
    tiny.write(dir.path());
    models::DecoderSpec decoder = models::load_decoder_spec(dir.path());
    for (models::spec::Layer& layer : decoder.layers)
        std::get<models::spec::Attention>(layer.branches.front().block).entry.front().stored_in_columns =
            true;
    for (const bool quantized : {false, true}) {
        models::LoadOptions options;
        options.quantization.load_in_4bit = quantized;
        for (const char* target : {"q_proj", "v_proj"}) {
            const auto model = models::load_base(io::Checkpoint(dir.path()), decoder, options);
            LoraConfig lora;
            lora.target_modules = NameList{target};
            const Json saved =
                parse_json(adapter_config_text(inject(*model, lora, 1).plan.config), kAdapterConfigFile);
            EXPECT_EQ(saved["fan_in_fan_out"], !quantized && std::string(target) == "q_proj") << target;
        }
    }
}

}  // namespace
}  // namespace qlora::adapters
