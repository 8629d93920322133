#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "qlora/core/error.h"

namespace qlora {

/// The error for a disk or quota that has no room for `path`: how much is needed (if known) and how much is
/// free.
ResourceError disk_full(const std::filesystem::path& path, std::optional<std::uint64_t> needed,
                        const std::string& reason);

/// Throws `disk_full` when the file system of `path`'s folder has less than `needed` bytes free. Neither need
/// exist yet; a file system that does not tell passes.
void require_free_space(const std::filesystem::path& path, std::uint64_t needed);

}  // namespace qlora
