#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace qlora::data {

/// The files that data paths name, in order. A path that exists stands for itself, whatever its characters; a
/// folder for the files right in it whose names end as data files do, sorted by name, hidden ones left out; a
/// path with `*`, `?` or `[...]` for what it matches, sorted, a folder among it taken as a folder. A path
/// that names nothing is a DataError. Paths that name one file twice are not merged.
std::vector<std::filesystem::path> data_files(const std::vector<std::filesystem::path>& paths);

/// Why a path names no file ("there is no ...", "... matches no file"), or empty.
std::string fault_of_data_path(const std::filesystem::path& path);

}  // namespace qlora::data
