#include "qlora/core/lfs_pointer.h"

namespace qlora {

std::string fault_of_lfs_pointer(std::string_view beginning) {
    // The format's specification: shorter than 1024 bytes, the version line first, the hash on a line of its
    // own.
    constexpr std::size_t kMostBytes = 1024;
    const bool is_pointer = beginning.size() < kMostBytes && beginning.starts_with("version https://") &&
                            beginning.find("\noid sha256:") != std::string_view::npos;
    if (!is_pointer) return {};
    return "is a Git LFS pointer, not the file itself: run git lfs pull where it was cloned, or download the "
           "file";
}

}  // namespace qlora
