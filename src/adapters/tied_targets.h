#pragma once

#include <string>
#include <vector>

#include "qlora/adapters/target_matching.h"
#include "qlora/core/error.h"

namespace qlora::adapters {

// LoRA on the embedding and the output head, which are one tensor in many models.

/// Whether one of the names is that of an embedding or a head, by the two that PEFT knows.
bool names_table(const NameList& names);

/// As PEFT turns `ensure_weight_tying` into targets: the embedding in the place of the head. Whether
/// embedding and head then have one adapter.
bool settle_tying(const AdaptableModel& model, LoraConfig& config, std::vector<std::string>& warnings,
                  FaultList& faults);

/// A warning where embedding or head has an adapter of its own although the model ties them.
void warn_of_tie(const AdaptableModel& model, const std::vector<Target>& targets,
                 std::vector<std::string>& warnings);

/// Why an embedding or a head cannot be adapted; empty: it can.
std::string table_fault(const AdaptableModel& model, const ModuleInfo& module, const LoraConfig& config);

}  // namespace qlora::adapters
