#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/json.h"

namespace qlora::train {

/// As `write_folder_atomically`, with a manifest of sizes and hashes besides, by which `folder_fault` judges.
void write_folder_with_manifest(const std::filesystem::path& folder,
                                const std::function<void(const std::filesystem::path&)>& fill);

/// Empty if every file of the folder's manifest is there with its size and hash, else what has changed.
/// Throws ReadError where a file is there and cannot be read, which says nothing about its content.
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

/// The newest whole checkpoint; nothing when there is none at all. Newer ones that do not verify are set
/// aside under another name and logged, never deleted. CheckpointError when there are some and none is whole,
/// with what is wrong with each; ReadError when one that could be the newest cannot be read.
std::optional<CheckpointFolder> newest_whole_checkpoint(const std::filesystem::path& checkpoints);

/// Deletes the oldest checkpoints beyond `limit` (never the one of `best_step`), after `step` was written.
/// Those of later steps are not this run's to delete: they stay and do not count.
void prune_checkpoints(const std::filesystem::path& checkpoints, std::optional<std::int64_t> limit,
                       std::int64_t best_step, std::int64_t step);

}  // namespace qlora::train
