#include "qlora/train/run_checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/core/log.h"

namespace qlora::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifest = "manifest.json";
constexpr const char* kTemporaryPrefix = ".tmp-";
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

void put_in_place(const fs::path& temporary, const fs::path& folder) {
    // Exchanged in one step where the file system can, so that there is always a whole folder under the name.
    if (fs::exists(folder)) {
        if (renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, folder.c_str(), RENAME_EXCHANGE) == 0) {
            sync_folder(folder.parent_path());
            fs::remove_all(temporary);
            return;
        }
        fs::remove_all(folder);
    }
    fs::rename(temporary, folder);
    sync_folder(folder.parent_path());
}

}  // namespace

void write_folder_atomically(const fs::path& folder, const std::function<void(const fs::path&)>& fill) {
    const fs::path parent = folder.parent_path();
    const fs::path temporary =
        parent / (kTemporaryPrefix + folder.filename().string() + "-" + std::to_string(getpid()));
    try {
        fs::create_directories(parent);
        fs::remove_all(temporary);
        fs::create_directory(temporary);
        fill(temporary);
        write_file_atomically(temporary / kManifest, write_manifest_text(temporary));
        sync_folder(temporary);
        put_in_place(temporary, folder);
    } catch (const fs::filesystem_error& error) {
        std::error_code ignored;
        fs::remove_all(temporary, ignored);
        const std::string reason = error.code().message();
        if (error.code() == std::errc::no_space_on_device) throw ResourceError(folder.string() + ": " + reason);
        throw CheckpointError(folder.string() + ": cannot be written: " + reason);
    } catch (...) {
        std::error_code ignored;
        fs::remove_all(temporary, ignored);
        throw;
    }
}

std::string folder_fault(const fs::path& folder) {
    try {
        const Json manifest = read_json_file(folder / kManifest);
        for (const auto& [name, entry] : manifest.at("files").items()) {
            const fs::path file = folder / name;
            if (!fs::exists(file)) return name + " is missing";
            if (fs::file_size(file) != entry.at("bytes").get<std::uintmax_t>()) return name + " has the wrong size";
            if (hash_file(file) != entry.at("xxh3_128").get<std::string>()) return name + " has changed content";
        }
    } catch (const std::exception& error) {
        return error.what();
    }
    return {};
}

void remove_leftovers(const fs::path& folder) {
    if (!fs::is_directory(folder)) return;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
        if (entry.path().filename().string().starts_with(kTemporaryPrefix)) fs::remove_all(entry.path());
    }
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

void prune_checkpoints(const fs::path& checkpoints, std::optional<std::int64_t> limit, std::int64_t best_step) {
    if (!limit) return;
    std::int64_t kept = 0;
    for (const CheckpointFolder& checkpoint : list_checkpoints(checkpoints)) {
        const bool is_best = checkpoint.step == best_step;
        if (kept < *limit) {
            ++kept;
        } else if (!is_best) {
            fs::remove_all(checkpoint.path);
        }
    }
}

}  // namespace qlora::train
