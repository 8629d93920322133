#pragma once

#include <optional>
#include <string>

#include "qlora/adapters/method_fields.h"

namespace qlora::adapters {

/// PEFT's IA3Config (Liu et al. 2022).
struct Ia3Config {
    static constexpr const char* kTagName = "peft_type";
    static constexpr PeftType kTag = PeftType::kIa3;
    /// Of a run that names none: peft's own benchmark, where it was the best of three.
    static constexpr double kLearningRate = 5e-3;

    PeftType peft_type = kTag;
    std::optional<TaskType> task_type = TaskType::kCausalLm;
    std::optional<std::string> base_model_name_or_path;
    ModuleNames target_modules;
    ModuleNames exclude_modules;
    ModuleNames feedforward_modules;
    std::optional<NameList> modules_to_save;
    bool init_ia3_weights = true;
    /// Whether an adapted weight of the base is stored in columns: written as PEFT does, read from no file.
    bool fan_in_fan_out = false;

    bool operator==(const Ia3Config&) const = default;

    template <class Self, class Visitor>
    static void fields(Self& self, Visitor& visit) {
        visit("target_modules", self.target_modules, {},
              "scaled layers: names, a regular expression for the whole path, or all-linear; null: PEFT's "
              "choice for the architecture, where it has one");
        visit("feedforward_modules", self.feedforward_modules, {},
              "those of them whose input is scaled instead of their output, named like target_modules; null: "
              "PEFT's choice with that of target_modules, else none");
        visit("exclude_modules", self.exclude_modules, {}, "left out, matched like target_modules");
        visit("modules_to_save", self.modules_to_save, {}, "modules trained and saved whole");
        visit("init_ia3_weights", self.init_ia3_weights, {},
              "factors start at one; false: at normal random numbers");
        method_fields(self, visit);
        visit.ignored("fan_in_fan_out",
                      "the model says which weights are stored in columns (GPT-2's Conv1D)");
    }
};

void check_config(const Ia3Config& config, const std::string& path, FaultList& faults);

}  // namespace qlora::adapters
