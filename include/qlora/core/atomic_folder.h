#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace qlora {

/// What the names of temporary files and folders begin with; a killed process may leave such behind.
inline constexpr const char* kTemporaryPrefix = ".tmp-";

/// Writes a folder so that its final name holds the whole new content or the old one, whatever happens:
/// `fill` writes the files into a temporary folder beside it (`.tmp-<name>-<pid>`, locked while it is
/// written), then sync, rename, sync of the parent. Parents that are missing are made, and their names synced
/// too. An existing folder is exchanged. On any failure the temporary folder and the parents that were made
/// are removed and the error passed on; one of the disk (full, quota, input/output) is a ResourceError.
void write_folder_atomically(const std::filesystem::path& folder,
                             const std::function<void(const std::filesystem::path&)>& fill);

/// Removes the temporary folders that killed writers of this folder left beside it. What a living process is
/// writing, on this machine or on another one, stays.
void remove_leftovers_of(const std::filesystem::path& folder);

/// Where two folders cannot be exchanged in one step, a process killed between the two renames leaves the old
/// folder under another name: puts such back, or removes them where the new one is in place.
void restore_folders(const std::filesystem::path& parent);

}  // namespace qlora
