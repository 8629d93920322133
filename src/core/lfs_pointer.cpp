#include "qlora/core/lfs_pointer.h"

#include "qlora/core/whole_file.h"

namespace qlora {
namespace {

/// The format's specification: a pointer is shorter than this.
constexpr std::size_t kMostBytes = 1024;

}  // namespace

std::string fault_of_lfs_pointer(std::string_view beginning) {
    // The version line comes first, the hash stands on a line of its own.
    const bool is_pointer = beginning.size() < kMostBytes && beginning.starts_with("version https://") &&
                            beginning.find("\noid sha256:") != std::string_view::npos;
    if (!is_pointer) return {};
    return "is a Git LFS pointer, not the file itself: run git lfs pull where it was cloned, or download the "
           "file";
}

std::string fault_of_lfs_pointer_in(const std::filesystem::path& file) {
    return std::filesystem::file_size(file) < kMostBytes ? fault_of_lfs_pointer(read_whole_file(file)) : "";
}

}  // namespace qlora
