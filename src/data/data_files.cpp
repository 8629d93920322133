#include "qlora/data/data_files.h"

#include <glob.h>

#include <algorithm>
#include <memory>
#include <system_error>

#include "file_kind.h"
#include "qlora/core/error.h"

namespace qlora::data {
namespace {

namespace fs = std::filesystem;

struct Named {
    std::vector<fs::path> files;
    std::string fault;  // not empty: nothing is named
};

Named files_of_folder(const fs::path& folder) {
    Named out;
    std::error_code error;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
        const fs::path& file = entry->path();
        const bool is_hidden = file.filename().string().starts_with('.');
        if (is_hidden || !kind_by_name(file) || fs::is_directory(file)) continue;
        out.files.push_back(file);
    }
    std::sort(out.files.begin(), out.files.end());
    if (error) {
        out.fault = folder.string() + " cannot be read: " + error.message();
    } else if (out.files.empty()) {
        out.fault =
            "the folder " + folder.string() + " holds no data file: names must end in " + kDataFileEndings;
    }
    return out;
}

Named files_of_existing(const fs::path& path) {
    std::error_code error;
    return fs::is_directory(path, error) ? files_of_folder(path) : Named{{path}, ""};
}

Named files_of_pattern(const fs::path& pattern) {
    glob_t found{};
    const int result = ::glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found);
    const std::unique_ptr<glob_t, void (*)(glob_t*)> release(&found, ::globfree);
    Named out;
    if (result == GLOB_NOMATCH || (result == 0 && found.gl_pathc == 0)) {
        out.fault = "the pattern " + pattern.string() + " matches no file";
        return out;
    }
    if (result != 0) {
        out.fault = "the pattern " + pattern.string() + " cannot be followed";
        return out;
    }
    std::vector<fs::path> matches(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    std::sort(matches.begin(), matches.end());
    for (const fs::path& match : matches) {
        Named named = files_of_existing(match);
        if (!named.fault.empty()) return named;
        out.files.insert(out.files.end(), named.files.begin(), named.files.end());
    }
    return out;
}

Named files_of(const fs::path& path) {
    std::error_code error;
    if (fs::exists(path, error)) return files_of_existing(path);
    if (path.string().find_first_of("*?[") != std::string::npos) return files_of_pattern(path);
    // Not there, or not to be looked at: opening it says which.
    const bool is_missing = fs::status(path, error).type() == fs::file_type::not_found;
    return {{path}, is_missing ? "there is no " + path.string() : ""};
}

}  // namespace

std::vector<fs::path> data_files(const std::vector<fs::path>& paths) {
    std::vector<fs::path> files;
    std::string faults;
    for (const fs::path& path : paths) {
        const Named named = files_of(path);
        if (!named.fault.empty()) faults += (faults.empty() ? "" : "\n  ") + named.fault;
        files.insert(files.end(), named.files.begin(), named.files.end());
    }
    if (!faults.empty()) throw DataError(faults);
    return files;
}

std::string fault_of_data_path(const fs::path& path) {
    return files_of(path).fault;
}

}  // namespace qlora::data
