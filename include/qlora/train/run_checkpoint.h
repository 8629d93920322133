#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/json.h"

namespace qlora::train {

/// As `qlora::write_folder_atomically`, with a manifest of sizes and hashes besides, by which `folder_fault`
/// judges.
void write_folder_atomically(const std::filesystem::path& folder,
                             const std::function<void(const std::filesystem::path&)>& fill);

/// Empty if every file of the folder's manifest is there with its size and hash, else what is wrong.
std::string folder_fault(const std::filesystem::path& folder);

/// The hash that the folder's manifest has for `file`; empty when there is none.
std::string manifest_hash(const std::filesystem::path& folder, const std::string& file);

/// Removes what a killed process left in `folder` under temporary names, and puts back what it had moved
/// aside.
void remove_leftovers(const std::filesystem::path& folder);

/// Removes a folder so that its name is gone in one step. What cannot be removed is logged.
void discard_folder(const std::filesystem::path& folder);

/// `checkpoints/step-N` of a run, newest first.
struct CheckpointFolder {
    std::int64_t step = 0;
    std::filesystem::path path;
};
std::vector<CheckpointFolder> list_checkpoints(const std::filesystem::path& checkpoints);

/// The newest whole checkpoint; a broken one is logged by name and passed over.
std::optional<CheckpointFolder> newest_whole_checkpoint(const std::filesystem::path& checkpoints);

/// Deletes the oldest checkpoints beyond `limit` (never the one of `best_step`), after `step` was written.
/// Those of later steps are broken ones that the run went back behind: they neither count nor stay.
void prune_checkpoints(const std::filesystem::path& checkpoints, std::optional<std::int64_t> limit,
                       std::int64_t best_step, std::int64_t step);

}  // namespace qlora::train
