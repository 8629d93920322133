#include "qlora/core/optional_file.h"

#include <system_error>

#include "qlora/core/error.h"
#include "qlora/core/lfs_pointer.h"

namespace qlora {

namespace fs = std::filesystem;

std::string fault_of_dangling_link(const fs::path& path) {
    std::error_code error;
    if (!fs::is_symlink(path, error) || fs::exists(path, error)) return {};
    const fs::path target = fs::read_symlink(path, error);
    return "is a link to " + target.string() + ", which is not there";
}

bool optional_file_exists(const fs::path& file) {
    if (const std::string fault = fault_of_dangling_link(file); !fault.empty())
        throw CheckpointError(file.string() + ": " + fault);
    return fs::exists(file);
}

std::vector<fs::path> existing_files(const fs::path& folder, std::span<const char* const> names) {
    std::vector<fs::path> files;
    FaultList faults;
    for (const char* name : names) {
        const fs::path file = folder / name;
        std::string fault = fault_of_dangling_link(file);
        if (fault.empty() && fs::is_regular_file(file)) {
            fault = fault_of_lfs_pointer_in(file);
            files.push_back(file);
        }
        if (!fault.empty()) faults.add(name, fault);
    }
    faults.throw_if_any<CheckpointError>(folder.string());
    return files;
}

}  // namespace qlora
