#include "qlora/train/run_checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>

#include "qlora/core/atomic_file.h"
#include "qlora/core/atomic_folder.h"
#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/core/log.h"

namespace qlora::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifest = "manifest.json";
constexpr const char* kStepPrefix = "step-";

std::string write_manifest_text(const fs::path& folder) {
    Json files = Json::object();
    std::vector<fs::path> paths;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end());
    for (const fs::path& path : paths) {
        files[path.filename().string()] = {{"bytes", fs::file_size(path)}, {"xxh3_128", hash_file(path)}};
    }
    return Json{{"files", files}}.dump(2) + "\n";
}

std::string read_text(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

bool is_number(std::string_view text) {
    return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

/// ".tmp-<...>-<number>", as AtomicFile and write_folder_atomically name them; a user's own file is not taken
/// for one.
bool is_temporary_name(std::string_view name) {
    return name.starts_with(kTemporaryPrefix) && is_number(name.substr(name.rfind('-') + 1));
}

void remove_logged(const fs::path& path) {
    std::error_code error;
    fs::remove_all(path, error);
    if (error) fs::remove_all(path, error);
    if (error) spdlog::warn("{} could not be removed: {}", path.string(), error.message());
}

}  // namespace

void write_folder_atomically(const fs::path& folder, const std::function<void(const fs::path&)>& fill) {
    qlora::write_folder_atomically(folder, [&](const fs::path& temporary) {
        fill(temporary);
        write_file_atomically(temporary / kManifest, write_manifest_text(temporary));
    });
}

std::string folder_fault(const fs::path& folder) {
    try {
        const Json manifest = read_json_file(folder / kManifest);
        // No byte of it may have changed either: it is what writing its content again gives.
        if (read_text(folder / kManifest) != manifest.dump(2) + "\n") {
            return std::string(kManifest) + " has changed content";
        }
        for (const auto& [name, entry] : manifest.at("files").items()) {
            const fs::path file = folder / name;
            if (!fs::exists(file)) return name + " is missing";
            if (fs::file_size(file) != entry.at("bytes").get<std::uintmax_t>())
                return name + " has the wrong size";
            if (hash_file(file) != entry.at("xxh3_128").get<std::string>())
                return name + " has changed content";
        }
    } catch (const std::exception& error) {
        return error.what();
    }
    return {};
}

std::string manifest_hash(const fs::path& folder, const std::string& file) {
    try {
        return read_json_file(folder / kManifest).at("files").at(file).at("xxh3_128").get<std::string>();
    } catch (const std::exception&) {
        return {};
    }
}

void remove_leftovers(const fs::path& folder) {
    if (!fs::is_directory(folder)) return;
    restore_folders(folder);
    std::vector<fs::path> leftovers;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
        if (is_temporary_name(entry.path().filename().string())) leftovers.push_back(entry.path());
    }
    for (const fs::path& leftover : leftovers) remove_logged(leftover);
}

void discard_folder(const fs::path& folder) {
    const fs::path temporary = folder.parent_path() / (kTemporaryPrefix + folder.filename().string() + "-" +
                                                       std::to_string(::getpid()));
    std::error_code error;
    fs::rename(folder, temporary, error);
    if (error) {
        spdlog::warn("{} could not be removed: {}", folder.string(), error.message());
        return;
    }
    remove_logged(temporary);
}

std::vector<CheckpointFolder> list_checkpoints(const fs::path& checkpoints) {
    std::vector<CheckpointFolder> out;
    if (!fs::is_directory(checkpoints)) return out;
    for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints)) {
        const std::string name = entry.path().filename().string();
        if (!entry.is_directory() || !name.starts_with(kStepPrefix)) continue;
        std::int64_t step = 0;
        const char* begin = name.data() + std::strlen(kStepPrefix);
        const char* end = name.data() + name.size();
        const auto [stop, error] = std::from_chars(begin, end, step);
        if (error == std::errc() && stop == end) out.push_back({step, entry.path()});
    }
    std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.step > b.step; });
    return out;
}

std::optional<CheckpointFolder> newest_whole_checkpoint(const fs::path& checkpoints) {
    for (const CheckpointFolder& candidate : list_checkpoints(checkpoints)) {
        const std::string fault = folder_fault(candidate.path);
        if (fault.empty()) return candidate;
        spdlog::warn("{} is broken ({}) and passed over", candidate.path.string(), fault);
    }
    return std::nullopt;
}

void prune_checkpoints(const fs::path& checkpoints, std::optional<std::int64_t> limit, std::int64_t best_step,
                       std::int64_t step) {
    std::int64_t kept = 0;
    for (const CheckpointFolder& checkpoint : list_checkpoints(checkpoints)) {
        const bool is_late = checkpoint.step > step;
        const bool is_surplus = limit && !is_late && ++kept > *limit && checkpoint.step != best_step;
        if (is_late || is_surplus) discard_folder(checkpoint.path);
    }
}

}  // namespace qlora::train
