#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "qlora/adapters/prompt_learning_config.h"

namespace qlora::adapters {

enum class EncoderType { kMlp, kLstm };
constexpr EnumTable<EncoderType, 2> enum_table(EncoderType) {
    return {{{"MLP", EncoderType::kMlp}, {"LSTM", EncoderType::kLstm}}};
}

/// PEFT's PromptEncoderConfig, P-tuning (Liu et al. 2021).
struct PromptEncoderConfig {
    static constexpr const char* kTagName = "peft_type";
    static constexpr PeftType kTag = PeftType::kPTuning;
    static constexpr double kLearningRate = 1e-3;

    PeftType peft_type = kTag;
    std::optional<TaskType> task_type = TaskType::kCausalLm;
    std::optional<std::string> base_model_name_or_path;
    VirtualTokens tokens;
    EncoderType encoder_reparameterization_type = EncoderType::kMlp;
    std::optional<std::int64_t> encoder_hidden_size;
    std::int64_t encoder_num_layers = 2;
    double encoder_dropout = 0.0;

    bool operator==(const PromptEncoderConfig&) const = default;

    template <class Self, class Visitor>
    static void fields(Self& self, Visitor& visit) {
        visit("encoder_reparameterization_type", self.encoder_reparameterization_type, {},
              "what makes the tokens of an embedding while it trains");
        visit("encoder_hidden_size", self.encoder_hidden_size, {.min = 1},
              "its inner width; null: the base's hidden size");
        visit("encoder_num_layers", self.encoder_num_layers, {.min = 1},
              "layers of the LSTM; the MLP has two, whatever is given");
        visit("encoder_dropout", self.encoder_dropout, {.min = 0, .max = 1, .max_excluded = true},
              "between layers of the LSTM");
        virtual_token_fields(self, visit);
    }
};

void check_config(const PromptEncoderConfig& config, const std::string& path, FaultList& faults);

}  // namespace qlora::adapters
