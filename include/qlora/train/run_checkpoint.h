#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/json.h"

namespace qlora::train {

/// Writes a folder so that its final name holds the whole new content or the old one, whatever happens: `fill` writes
/// the files into a temporary folder beside it, then a manifest with sizes and hashes, sync, rename, sync of the parent.
/// An existing folder is exchanged. On any failure the temporary folder is removed and the error passed on.
void write_folder_atomically(const std::filesystem::path& folder,
                             const std::function<void(const std::filesystem::path&)>& fill);

/// Empty if every file of the folder's manifest is there with its size and hash, else what is wrong.
std::string folder_fault(const std::filesystem::path& folder);

/// Temporary folders and files that a killed process left in `folder`; removed.
void remove_leftovers(const std::filesystem::path& folder);

/// `checkpoints/step-N` of a run, newest first.
struct CheckpointFolder {
    std::int64_t step = 0;
    std::filesystem::path path;
};
std::vector<CheckpointFolder> list_checkpoints(const std::filesystem::path& checkpoints);

/// The newest whole checkpoint; a broken one is logged by name and passed over.
std::optional<CheckpointFolder> newest_whole_checkpoint(const std::filesystem::path& checkpoints);

/// Deletes the oldest checkpoints beyond `limit` (never the one of `best_step`).
void prune_checkpoints(const std::filesystem::path& checkpoints, std::optional<std::int64_t> limit,
                       std::int64_t best_step);

}  // namespace qlora::train
