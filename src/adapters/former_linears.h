#pragma once

#include <string>

#include "qlora/adapters/lora_config.h"
#include "qlora/adapters/target_matching.h"
#include "qlora/core/error.h"

namespace qlora::adapters {

// What transformers 5 holds as one parameter (the experts of a layer, a router), which PEFT adapts through
// target_parameters.

/// As PEFT turns the names in target_modules that were modules in transformers 4 into parameters: all that
/// one holds, with a rank for each of them.
void settle_former_linears(const AdaptableModel& model, LoraConfig& config, FaultList& faults);

bool is_former_linear(const AdaptableModel& model, const std::string& name);

/// What is wrong with a name in target_parameters that the model has not, for a message.
std::string unknown_parameter(const AdaptableModel& model);

}  // namespace qlora::adapters
