#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace qlora {

/// "is a link to TARGET, which is not there"; empty for anything but such a link.
std::string fault_of_dangling_link(const std::filesystem::path& path);

/// Whether a file that may be missing is there. std::filesystem::exists says "missing" of a link that leads
/// nowhere (half of a hub's snapshot was copied, say); here it is a CheckpointError that names both ends.
bool optional_file_exists(const std::filesystem::path& file);

/// Those of `names` that are files of `folder`, in that order, fit for copying: a link that leads nowhere and
/// a Git LFS pointer are faults, told together (CheckpointError).
std::vector<std::filesystem::path> existing_files(const std::filesystem::path& folder,
                                                  std::span<const char* const> names);

}  // namespace qlora
