#pragma once

#include "../method.h"

namespace qlora::adapters {

/// Low-rank updates of linears and of experts' parameters (Hu et al. 2021), and whole modules and biases of
/// the base besides.
extern const Method kLora;

/// Parts of kLora that have a file of their own.
Plan plan_lora(const PeftConfig& config, const models::DecoderSpec& decoder);
PlannedUpdates merge_lora(const Plan& plan, const models::DecoderSpec& decoder, const AdapterFile& file);
PeftConfig finished_lora(Json json, const AdapterFile& file, const models::DecoderSpec& decoder);

}  // namespace qlora::adapters
