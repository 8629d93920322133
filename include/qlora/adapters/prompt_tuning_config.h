#pragma once

#include <optional>
#include <string>

#include "qlora/adapters/prompt_learning_config.h"

namespace qlora::adapters {

/// kSampleVocab: rows of the base's embedding, drawn with replacement. kText: those of a text. kRandom:
/// normal random numbers, far larger than rows of an embedding.
enum class PromptTuningInit { kSampleVocab, kText, kRandom };
constexpr EnumTable<PromptTuningInit, 3> enum_table(PromptTuningInit) {
    return {{{"SAMPLE_VOCAB", PromptTuningInit::kSampleVocab},
             {"TEXT", PromptTuningInit::kText},
             {"RANDOM", PromptTuningInit::kRandom}}};
}

/// PEFT's PromptTuningConfig (Lester et al. 2021).
struct PromptTuningConfig {
    static constexpr const char* kTagName = "peft_type";
    static constexpr PeftType kTag = PeftType::kPromptTuning;
    static constexpr double kLearningRate = 1e-2;

    PeftType peft_type = kTag;
    std::optional<TaskType> task_type = TaskType::kCausalLm;
    std::optional<std::string> base_model_name_or_path;
    VirtualTokens tokens;
    PromptTuningInit prompt_tuning_init = PromptTuningInit::kSampleVocab;
    std::optional<std::string> prompt_tuning_init_text;
    std::optional<std::string> tokenizer_name_or_path;

    bool operator==(const PromptTuningConfig&) const = default;

    template <class Self, class Visitor>
    static void fields(Self& self, Visitor& visit) {
        visit("prompt_tuning_init", self.prompt_tuning_init, {},
              "what the tokens start as: random tokens of the vocabulary, those of a text, random numbers");
        visit("prompt_tuning_init_text", self.prompt_tuning_init_text, {},
              "the text of TEXT, repeated and cut to the number of tokens");
        visit("tokenizer_name_or_path", self.tokenizer_name_or_path, {.free_on_resume = true},
              "written for PEFT, which wants one with TEXT; the base's tokenizer is what encodes it");
        visit.fixed("tokenizer_kwargs", nullptr, "the base's tokenizer is used as it is");
        virtual_token_fields(self, visit);
    }
};

void check_config(const PromptTuningConfig& config, const std::string& path, FaultList& faults);

}  // namespace qlora::adapters
