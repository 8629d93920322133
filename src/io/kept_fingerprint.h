#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "qlora/io/safetensors.h"

namespace qlora::io {

/// What `file` says about exactly these shards; nothing where it is missing, damaged, or of other files.
std::optional<std::string> read_kept_fingerprint(const std::filesystem::path& file,
                                                 const std::vector<SafetensorsFile>& shards);

/// Writes it, unless a shard has changed since it was opened or so lately that a further change might leave
/// its times as they are. A failure is passed over.
void keep_fingerprint(const std::filesystem::path& file, const std::vector<SafetensorsFile>& shards,
                      const std::string& fingerprint);

}  // namespace qlora::io
