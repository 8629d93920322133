#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "qlora/core/field_types.h"

/// What the configurations of all methods have in common.
namespace qlora::adapters {

enum class PeftType { kLora, kIa3, kPromptTuning, kPTuning, kPrefixTuning, kBottleneck };
constexpr EnumTable<PeftType, 6> enum_table(PeftType) {
    return {{{"LORA", PeftType::kLora},
             {"IA3", PeftType::kIa3},
             {"PROMPT_TUNING", PeftType::kPromptTuning},
             {"P_TUNING", PeftType::kPTuning},
             {"PREFIX_TUNING", PeftType::kPrefixTuning},
             {"BOTTLENECK", PeftType::kBottleneck}}};
}

constexpr UnbuiltNames<7> unbuilt_names(PeftType) {
    return {{{"ADALORA", "AdaLoRA, which moves ranks between layers, is not there; LORA has a rank_pattern"},
             {"LOHA", "Hadamard products (LoHa) are not there"},
             {"LOKR", "Kronecker products (LoKr) are not there"},
             {"OFT", "orthogonal fine-tuning is not there"},
             {"BOFT", "orthogonal fine-tuning is not there"},
             {"VERA", "VeRA's shared random matrices are not there"},
             {"TRAINABLE_TOKENS", "training single token rows is not there yet"}}};
}

enum class TaskType { kCausalLm };
constexpr EnumTable<TaskType, 1> enum_table(TaskType) {
    return {{{"CAUSAL_LM", TaskType::kCausalLm}}};
}

/// QUESTION_ANSWERING is no name of PEFT's, but often written.
constexpr UnbuiltNames<6> unbuilt_names(TaskType) {
    return {{{"SEQ_CLS", "a head that classifies whole sequences is not there yet"},
             {"TOKEN_CLS", "a head that classifies each token is not there yet"},
             {"QUESTION_ANS", "a head that marks the span of an answer is not there yet"},
             {"QUESTION_ANSWERING",
              "a head that marks the span of an answer (QUESTION_ANS in PEFT) is not there yet"},
             {"FEATURE_EXTRACTION", "training a model for its hidden states is not there yet"},
             {"SEQ_2_SEQ_LM", "models with an encoder and a decoder are not there yet"}}};
}

using NameList = std::vector<std::string>;
/// Null, a regular expression for the whole module path (or "all-linear"), or a list of path endings.
using ModuleNames = std::variant<std::monostate, std::string, NameList>;
using LayerIndices = std::variant<std::monostate, std::int64_t, std::vector<std::int64_t>>;
/// Name or regular expression -> value. The first entry that matches wins, so the order counts.
template <class T>
using NamePatterns = std::vector<std::pair<std::string, T>>;

}  // namespace qlora::adapters
