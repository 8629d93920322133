#include "qlora/train/run_checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string_view>
#include <system_error>
#include <utility>

#include "qlora/core/atomic_file.h"
#include "qlora/core/atomic_folder.h"
#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/core/log.h"
#include "qlora/core/whole_file.h"

namespace qlora::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifest = "manifest.json";
constexpr const char* kBytesKey = "bytes";
constexpr const char* kHashKey = "xxh3_128";
constexpr const char* kStepPrefix = "step-";
/// Of checkpoints that did not verify: nothing looks at them again and nothing deletes them.
constexpr const char* kBrokenPrefix = ".broken-";

Json manifest_of(const fs::path& folder) {
    Json files = Json::object();
    std::vector<fs::path> paths;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
        if (!entry.is_directory()) paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end());
    for (const fs::path& path : paths) {
        files[path.lexically_relative(folder).generic_string()] = {{kBytesKey, fs::file_size(path)},
                                                                   {kHashKey, hash_file(path)}};
    }
    return {{"files", files}};
}

/// What is wrong with a file by its entry in the manifest; empty when it is as written. Throws ReadError
/// where that cannot be told.
std::string file_fault(const fs::path& file, const Json& entry) {
    const auto bytes = entry.at(kBytesKey).get<std::uintmax_t>();
    const auto hash = entry.at(kHashKey).get<std::string>();
    std::error_code error;
    const std::uintmax_t size = fs::file_size(file, error);
    const bool is_missing =
        error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory;
    if (is_missing) return "is missing";
    if (error) throw ReadError(file, "read", error.value());
    if (size != bytes) return "has the wrong size";
    return hash_file(file) == hash ? "" : "has changed content";
}

bool is_number(std::string_view text) {
    return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

/// ".tmp-<...>-<number>", as AtomicFile and write_folder_atomically name them; a user's own file is not taken
/// for one.
bool is_temporary_name(std::string_view name) {
    return name.starts_with(kTemporaryPrefix) && is_number(name.substr(name.rfind('-') + 1));
}

/// Gives a checkpoint that did not verify a name under which it is out of the way; returns that.
fs::path set_aside(const fs::path& checkpoint) {
    const std::string name = kBrokenPrefix + checkpoint.filename().string();
    fs::path aside = checkpoint.parent_path() / name;
    for (int number = 2; fs::exists(fs::symlink_status(aside)); ++number) {
        aside = checkpoint.parent_path() / (name + "-" + std::to_string(number));
    }
    std::error_code error;
    fs::rename(checkpoint, aside, error);
    if (error) {
        throw CheckpointError(checkpoint.string() + " is broken and cannot be set aside as " +
                              aside.filename().string() + ": " + error.message());
    }
    sync_folder(checkpoint.parent_path());
    return aside;
}

/// Throws unless there is no checkpoint at all, not even one that was set aside: a run that has some is never
/// started again over them.
void require_none(const fs::path& checkpoints, const std::vector<std::pair<fs::path, std::string>>& broken) {
    std::vector<std::string> texts;
    for (const auto& [path, fault] : broken) texts.push_back(path.filename().string() + " (" + fault + ")");
    std::vector<std::string> aside;
    if (fs::is_directory(checkpoints)) {
        for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints)) {
            const std::string name = entry.path().filename().string();
            if (name.starts_with(std::string(kBrokenPrefix) + kStepPrefix)) aside.push_back(name);
        }
    }
    std::sort(aside.begin(), aside.end());
    for (const std::string& name : aside) texts.push_back(name + " (did not verify earlier)");
    if (texts.empty()) return;
    std::string list;
    for (const std::string& text : texts) list += (list.empty() ? "" : ", ") + text;
    throw CheckpointError("--resume: " + checkpoints.string() + " holds no whole checkpoint: " + list +
                          "; start again with another training.output_dir, or move that folder away to start "
                          "at the beginning here");
}

void remove_logged(const fs::path& path) {
    std::error_code error;
    fs::remove_all(path, error);
    if (error) fs::remove_all(path, error);
    if (error) spdlog::warn("{} could not be removed: {}", path.string(), error.message());
}

}  // namespace

void write_folder_with_manifest(const fs::path& folder, const std::function<void(const fs::path&)>& fill) {
    write_folder_atomically(folder, [&](const fs::path& temporary) {
        fill(temporary);
        write_file_atomically(temporary / kManifest, manifest_of(temporary).dump(2) + "\n");
    });
}

std::string folder_fault(const fs::path& folder) {
    const fs::path file = folder / kManifest;
    try {
        const Json manifest = parse_json(read_whole_file(file), file.string());
        for (const auto& [name, entry] : manifest.at("files").items()) {
            const std::string fault = file_fault(folder / name, entry);
            if (!fault.empty()) return name + " " + fault;
        }
    } catch (const ReadError& error) {
        if (!error.is_missing()) throw;
        return std::string(kManifest) + " is missing";
    } catch (const ConfigError& error) {
        return error.what();
    } catch (const Json::exception&) {
        return std::string(kManifest) + " has changed content";
    }
    return {};
}

std::string manifest_hash(const fs::path& folder, const std::string& file) {
    try {
        return read_json_file(folder / kManifest).at("files").at(file).at(kHashKey).get<std::string>();
    } catch (const ConfigError&) {
    } catch (const Json::exception&) {
    }
    return {};
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
    std::optional<CheckpointFolder> whole;
    std::vector<std::pair<fs::path, std::string>> broken;  // newest first, with what is wrong
    for (const CheckpointFolder& candidate : list_checkpoints(checkpoints)) {
        const std::string fault = folder_fault(candidate.path);
        if (fault.empty()) {
            whole = candidate;
            break;
        }
        broken.emplace_back(candidate.path, fault);
    }
    if (!whole) require_none(checkpoints, broken);
    for (const auto& [path, fault] : broken) {
        const fs::path aside = set_aside(path);
        spdlog::warn("{} is broken ({}) and passed over; it is kept as {}", path.string(), fault,
                     aside.filename().string());
    }
    return whole;
}

void prune_checkpoints(const fs::path& checkpoints, std::optional<std::int64_t> limit, std::int64_t best_step,
                       std::int64_t step) {
    if (!limit) return;
    std::int64_t kept = 0;
    for (const CheckpointFolder& checkpoint : list_checkpoints(checkpoints)) {
        if (checkpoint.step > step) continue;
        if (++kept > *limit && checkpoint.step != best_step) discard_folder(checkpoint.path);
    }
}

}  // namespace qlora::train
