#include "qlora/core/disk_space.h"

#include <sys/statvfs.h>

namespace qlora {

namespace {

std::optional<std::uint64_t> free_bytes_beside(const std::filesystem::path& path) {
    std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
    std::error_code ignored;
    while (folder.has_relative_path() && !std::filesystem::exists(folder, ignored))
        folder = folder.parent_path();
    struct statvfs status {};
    if (::statvfs(folder.c_str(), &status) != 0) return std::nullopt;
    return std::uint64_t{status.f_bavail} * status.f_frsize;
}

}  // namespace

ResourceError disk_full(const std::filesystem::path& path, std::optional<std::uint64_t> needed,
                        const std::string& reason) {
    std::string message = path.string() + ": " + reason;
    if (needed) message += "; " + std::to_string(*needed) + " bytes needed";
    if (const auto available = free_bytes_beside(path)) {
        message += (needed ? ", " : "; ") + std::to_string(*available) + " free";
    }
    return ResourceError(message + "; make room or choose another folder");
}

void require_free_space(const std::filesystem::path& path, std::uint64_t needed) {
    const auto available = free_bytes_beside(path);
    if (available && *available < needed) throw disk_full(path, needed, "the disk is too full");
}

}  // namespace qlora
