#pragma once

#include <filesystem>
#include <vector>

#include "merge_plan.h"

namespace qlora::adapters {

/// Copies a file so that it survives a power loss.
void copy_file_synced(const std::filesystem::path& file, const std::filesystem::path& folder);

/// config.json of the merged model: the base's, byte for byte unless a key changes (the dtype, tied
/// embeddings).
void write_model_config(const std::filesystem::path& model, MergeDtype dtype, bool untied,
                        const std::filesystem::path& folder);

/// model.safetensors.index.json, where the base has one.
void write_shard_index(const std::filesystem::path& model, const MergePlan& plan,
                       const std::filesystem::path& folder);

}  // namespace qlora::adapters
