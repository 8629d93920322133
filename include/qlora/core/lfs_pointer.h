#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace qlora {

/// Git LFS keeps large files outside the repository: a clone without it holds a short text in their place.
/// What to say of a file that begins with `beginning` (all of it, or at least its first 1024 bytes) when it
/// is such a text; empty for any other file.
std::string fault_of_lfs_pointer(std::string_view beginning);
/// The same of a file on disk.
std::string fault_of_lfs_pointer_in(const std::filesystem::path& file);

}  // namespace qlora
