#pragma once

#include <filesystem>

#include "qlora/adapters/merge.h"

namespace qlora::adapters {

/// config.json of the merged model: the base's, byte for byte unless a key changes (the dtype, tied
/// embeddings, a base stored in 4 bits).
void write_model_config(const std::filesystem::path& model, MergeDtype dtype, bool untied,
                        const std::filesystem::path& folder);

}  // namespace qlora::adapters
