#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <sstream>

#include "qlora/adapters/peft_format.h"
#include "qlora/core/json.h"
#include "qlora/io/checkpoint.h"
#include "qlora/models/base_loader.h"
#include "qlora/train/trainer.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

namespace qlora::test {

/// A callback made of one function, called after each step.
class AfterStep final : public train::Callback {
  public:
    explicit AfterStep(std::function<void(const train::StepReport&)> action) : action_(std::move(action)) {}
    void on_step(const train::StepReport& report) override {
        if (action_) action_(report);
    }

  private:
    std::function<void(const train::StepReport&)> action_;
};

/// A tiny quantized model with adapters on every linear, or another method, and a few rows, to train in a
/// folder of its own.
class TinyRun {
  public:
    static constexpr std::int64_t kRows = 8;

    explicit TinyRun(const TempDir& folder, at::ScalarType compute = at::kFloat,
                     const std::optional<adapters::PeftConfig>& peft = std::nullopt)
        : folder_(folder) {
        TinyModel{.seed = 3}.write(folder.path());
        const models::DecoderSpec config = models::load_decoder_spec(folder.path());
        const io::Checkpoint checkpoint(folder.path());
        model_ = models::load_base(checkpoint, config, {.quantization = {}, .compute_dtype = compute});
        adapters::LoraConfig lora;
        lora.r = 2;
        lora.lora_dropout = 0.1;
        lora.target_modules = "all-linear";
        adaptation = adapters::inject(*model_, peft.value_or(lora), 1);
        training.output_dir = folder / "run";
        std::filesystem::create_directory(training.output_dir);
        training.max_steps = 8;
        training.gradient_accumulation_steps = 2;
        training.learning_rate = 1e-2;
        training.lr_scheduler_type = train::LrSchedulerType::kConstant;
        training.warmup_steps = 0;
        training.logging_steps = 1;
        training.save_steps = 100;
    }

    train::Trainer trainer(train::Callback& callback) {
        train::TrainerInput input{.model = model_.get(),
                                  .adaptation = &adaptation,
                                  .train = rows(),
                                  .recomputation = recomputation};
        if (evaluates) input.eval = rows();
        input.plan.gradient_accumulation_steps = training.gradient_accumulation_steps;
        input.base_model = "tiny";
        return train::Trainer(std::move(input), training, callback);
    }

    train::RunSummary run(std::function<void(const train::StepReport&)> after_step = {}) {
        AfterStep callback(std::move(after_step));
        return trainer(callback).run();
    }

    /// The parameter whose key ends like that; the first of several.
    at::Tensor parameter(const std::string& ending) const {
        for (const nn::Parameter& each : adaptation.parameters) {
            if (each.key.ends_with(ending)) return each.tensor;
        }
        throw std::out_of_range(ending);
    }

    std::vector<at::Tensor> values() const {
        std::vector<at::Tensor> out;
        for (const nn::Parameter& each : adaptation.parameters) out.push_back(each.tensor.detach().clone());
        return out;
    }

    /// metrics.jsonl by step; parsed strictly, so a NaN in it would throw.
    std::map<std::int64_t, Json> metrics() const {
        std::map<std::int64_t, Json> out;
        std::istringstream lines(read_file(training.output_dir / "metrics.jsonl"));
        for (std::string line; std::getline(lines, line);) {
            const Json value = parse_json(line, "metrics.jsonl");
            out[value.at("step").get<std::int64_t>()] = value;
        }
        return out;
    }

    adapters::Adaptation adaptation;
    train::TrainingConfig training;
    bool evaluates = false;  ///< on the training rows
    nn::Recomputation recomputation = nn::Recomputation::kNone;

  private:
    static std::vector<data::Example> rows() {
        std::vector<data::Example> out;
        for (std::int64_t row = 0; row < kRows; ++row) {
            data::Example example;
            for (std::int64_t i = 0; i < 6 + row % 3; ++i) {
                example.ids.push_back(static_cast<tokenizer::TokenId>((3 + 7 * row + 11 * i) % 97));
                example.supervised.push_back(i >= 3 ? 1 : 0);
            }
            example.row = row;
            example.place = "rows.jsonl:" + std::to_string(row + 1);
            out.push_back(std::move(example));
        }
        return out;
    }

    const TempDir& folder_;
    std::unique_ptr<models::CausalLM> model_;
};

inline bool equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (!a[i].equal(b[i])) return false;
    }
    return true;
}

}  // namespace qlora::test
