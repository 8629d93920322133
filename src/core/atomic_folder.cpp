#include "qlora/core/atomic_folder.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>
#include <vector>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"

namespace qlora {

namespace {

namespace fs = std::filesystem;

/// What a file system that cannot exchange two folders keeps the old one under, for a moment.
constexpr const char* kAsidePrefix = ".old-";

/// A folder that is not needed any more; what cannot be removed (tried twice) is left to the next run.
void remove_if_possible(const fs::path& folder) {
    std::error_code error;
    fs::remove_all(folder, error);
    if (error) fs::remove_all(folder, error);
}

void swap_through_aside(const fs::path& temporary, const fs::path& folder) {
    const fs::path aside = folder.parent_path() / (kAsidePrefix + folder.filename().string());
    fs::remove_all(aside);
    fs::rename(folder, aside);
    std::error_code error;
    fs::rename(temporary, folder, error);
    if (error) {
        fs::rename(aside, folder);
        throw fs::filesystem_error("rename", folder, error);
    }
    sync_folder(folder.parent_path());
    remove_if_possible(aside);
}

void put_in_place(const fs::path& temporary, const fs::path& folder) {
    if (!fs::exists(folder)) {
        fs::rename(temporary, folder);
        sync_folder(folder.parent_path());
        return;
    }
    // Exchanged in one step where the file system can, so that there is always a whole folder under the name.
    if (renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, folder.c_str(), RENAME_EXCHANGE) == 0) {
        sync_folder(folder.parent_path());
        remove_if_possible(temporary);
        return;
    }
    const int error = errno;
    if (error != EINVAL && error != ENOSYS && error != ENOTSUP) {
        throw fs::filesystem_error("exchange", folder, std::error_code(error, std::generic_category()));
    }
    swap_through_aside(temporary, folder);
}

bool is_disk_fault(const std::error_code& code) {
    return code == std::errc::no_space_on_device || code == std::errc::io_error || code.value() == EDQUOT;
}

}  // namespace

void write_folder_atomically(const fs::path& folder, const std::function<void(const fs::path&)>& fill) {
    const fs::path parent = folder.parent_path();
    const fs::path temporary =
        parent / (kTemporaryPrefix + folder.filename().string() + "-" + std::to_string(getpid()));
    try {
        if (fs::create_directories(parent)) sync_folder(parent.parent_path());
        fs::remove_all(temporary);
        fs::create_directory(temporary);
        fill(temporary);
        sync_folder(temporary);
        put_in_place(temporary, folder);
    } catch (const fs::filesystem_error& error) {
        remove_if_possible(temporary);
        const std::string message = folder.string() + ": cannot be written: " + error.code().message();
        if (is_disk_fault(error.code())) throw ResourceError(message);
        throw CheckpointError(message);
    } catch (...) {
        remove_if_possible(temporary);
        throw;
    }
}

void restore_folders(const fs::path& parent) {
    std::vector<fs::path> asides;
    for (const fs::directory_entry& entry : fs::directory_iterator(parent)) {
        if (entry.path().filename().string().starts_with(kAsidePrefix)) asides.push_back(entry.path());
    }
    for (const fs::path& aside : asides) {
        const fs::path folder = parent / aside.filename().string().substr(std::strlen(kAsidePrefix));
        if (fs::exists(folder)) {
            remove_if_possible(aside);
        } else {
            fs::rename(aside, folder);
            sync_folder(parent);
        }
    }
}

}  // namespace qlora
