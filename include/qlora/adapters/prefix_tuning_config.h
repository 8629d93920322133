#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "qlora/adapters/prompt_learning_config.h"

namespace qlora::adapters {

/// kZero: keys and values that are zero, which still take their share of the attention.
enum class PrefixStart { kZero };
constexpr EnumTable<PrefixStart, 1> enum_table(PrefixStart) {
    return {{{"zero", PrefixStart::kZero}}};
}

/// PEFT's PrefixTuningConfig (Li and Liang 2021), and a start of ours.
struct PrefixTuningConfig {
    static constexpr const char* kTagName = "peft_type";
    static constexpr PeftType kTag = PeftType::kPrefixTuning;
    static constexpr double kLearningRate = 5e-3;
    /// Not PEFT's: not in its files.
    static constexpr const char* kInitText = "prefix_init_text";

    PeftType peft_type = kTag;
    std::optional<TaskType> task_type = TaskType::kCausalLm;
    std::optional<std::string> base_model_name_or_path;
    VirtualTokens tokens;
    bool prefix_projection = false;
    std::optional<std::int64_t> encoder_hidden_size;
    std::optional<PrefixStart> init_weights;
    std::optional<std::string> prefix_init_text;

    bool operator==(const PrefixTuningConfig&) const = default;

    template <class Self, class Visitor>
    static void fields(Self& self, Visitor& visit) {
        visit("prefix_projection", self.prefix_projection, {},
              "whether two linears make keys and values of an embedding while they train");
        visit("encoder_hidden_size", self.encoder_hidden_size, {.min = 1},
              "their inner width; null: the width of a layer's keys");
        visit("init_weights", self.init_weights, {},
              "null: keys and values start at normal random numbers; zero: at zero");
        visit(
            kInitText, self.prefix_init_text, {},
            "keys and values start as the base's own of this text, repeated and cut to the number of tokens: "
            "by far the best start");
        virtual_token_fields(self, visit);
    }
};

void check_config(const PrefixTuningConfig& config, const std::string& path, FaultList& faults);

}  // namespace qlora::adapters
