#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "qlora/io/safetensors.h"

/// Parts of writing a model folder after the pattern of another.
namespace qlora::models {

/// One file and its tensors in the order they are written.
struct ShardSpecs {
    std::string file;
    std::vector<io::TensorSpec> tensors;
};

/// The small files beside a folder's weights.
struct CompanionFiles {
    std::vector<std::filesystem::path> copied;  ///< as they are, byte for byte
    /// Name, within a folder of its own where it has a slash -> text; comes before a copied file of that
    /// name.
    std::map<std::string, std::string> written;
};

std::int64_t element_count(const io::TensorSpec& spec);
std::int64_t byte_count(const std::vector<ShardSpecs>& shards);

/// `--output` without a trailing slash; ConfigError when it is a file or a folder that is not empty.
std::filesystem::path new_output_folder(const std::filesystem::path& output);

/// ResourceError when the disk has no room for `bytes` of tensors and the files beside them.
void require_space(const std::filesystem::path& output, std::int64_t bytes, const CompanionFiles& files);

/// Writes the files beside the weights so that they survive a power loss.
void write_companions(const CompanionFiles& files, const std::filesystem::path& folder);

/// Copies a file so that it survives a power loss. A Git LFS pointer is a CheckpointError.
void copy_file_synced(const std::filesystem::path& file, const std::filesystem::path& folder);

/// model.safetensors.index.json, where `model` has one; `parameters` replaces its total_parameters.
void write_shard_index(const std::filesystem::path& model, const std::vector<ShardSpecs>& shards,
                       std::optional<std::int64_t> parameters, const std::filesystem::path& folder);

}  // namespace qlora::models
