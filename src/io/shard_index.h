#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace qlora::io {

/// Reads `weight_map` (tensor name to shard file name) of a `*.safetensors.index.json`. Other keys are passed
/// over. Throws CheckpointError that names the file. The shard names are as they stand there: nothing is
/// checked of them.
std::map<std::string, std::string> read_shard_index(const std::filesystem::path& file);

}  // namespace qlora::io
