#pragma once

#include <filesystem>

#include "qlora/adapters/adapter_file.h"
#include "qlora/adapters/peft_config.h"
#include "qlora/models/decoder_spec.h"

namespace qlora::adapters {

/// The configuration of an adapter that is evaluated or merged, not trained on: its tensors count more than
/// what its file says of how they came about. Passed over with a log line: a foreign `task_type` where the
/// file holds nothing but LoRA of this model, names that match no module of it, and initialisations that
/// leave the base as it is. CheckpointError with the reason: a head of another task, and initialisations
/// after which the adapter belongs to a changed base.
PeftConfig load_finished_adapter(const std::filesystem::path& folder, const AdapterFile& file,
                                 const models::DecoderSpec& model);

}  // namespace qlora::adapters
