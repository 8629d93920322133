#include "qlora/core/atomic_folder.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"

namespace qlora {

namespace {

namespace fs = std::filesystem;

/// Prefix of the old folder's name between the two renames on a file system that cannot exchange folders.
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

/// The parents of a folder that have to be made for it.
class MissingParents {
  public:
    explicit MissingParents(const fs::path& folder) {
        for (fs::path parent = folder.parent_path(); !fs::exists(parent); parent = parent.parent_path())
            missing_.push_back(parent);
    }
    /// Makes them; their names survive a power loss.
    void make() const {
        if (missing_.empty()) return;
        fs::create_directories(missing_.front());
        for (const fs::path& made : missing_) sync_folder(made.parent_path());
    }
    /// Takes back those that hold nothing.
    void remove_empty() const {
        std::error_code ignored;
        for (const fs::path& made : missing_) fs::remove(made, ignored);
    }

  private:
    std::vector<fs::path> missing_;  ///< innermost first
};

/// Says to other processes that a temporary folder has a living owner; ends with the process at the latest.
class FolderLock {
  public:
    explicit FolderLock(const fs::path& folder)
        : fd_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
        is_held_ = fd_ >= 0 && ::flock(fd_, LOCK_EX | LOCK_NB) == 0;
    }
    ~FolderLock() {
        if (fd_ >= 0) ::close(fd_);
    }
    FolderLock(const FolderLock&) = delete;
    FolderLock& operator=(const FolderLock&) = delete;

    /// False where somebody else holds it, and on file systems without such locks.
    bool is_held() const { return is_held_; }

  private:
    int fd_;
    bool is_held_ = false;
};

std::string temporary_prefix_of(const fs::path& folder) {
    return kTemporaryPrefix + folder.filename().string() + "-";
}

/// Whether this is a temporary folder whose owner is gone: no process of this machine has its id, and nobody
/// anywhere holds its lock.
bool is_abandoned(const fs::path& temporary, const std::string& prefix) {
    const std::string name = temporary.filename().string();
    if (!name.starts_with(prefix) || !fs::is_directory(fs::symlink_status(temporary))) return false;
    pid_t owner = 0;
    const char* end = name.data() + name.size();
    const auto [stop, fault] = std::from_chars(name.data() + prefix.size(), end, owner);
    if (fault != std::errc() || stop != end || owner <= 0) return false;
    if (::kill(owner, 0) == 0 || errno == EPERM) return false;
    return FolderLock(temporary).is_held();
}

bool is_disk_fault(const std::error_code& code) {
    return code == std::errc::no_space_on_device || code == std::errc::io_error || code.value() == EDQUOT;
}

}  // namespace

void write_folder_atomically(const fs::path& target, const std::function<void(const fs::path&)>& fill) {
    const fs::path folder = fs::absolute(target);
    const fs::path temporary =
        folder.parent_path() / (temporary_prefix_of(folder) + std::to_string(getpid()));
    std::optional<MissingParents> parents;
    const auto clean_up = [&] {
        remove_if_possible(temporary);
        if (parents) parents->remove_empty();
    };
    try {
        parents.emplace(folder);
        parents->make();
        fs::remove_all(temporary);
        fs::create_directory(temporary);
        const FolderLock lock(temporary);
        fill(temporary);
        sync_folder(temporary);
        put_in_place(temporary, folder);
    } catch (const fs::filesystem_error& error) {
        clean_up();
        const std::string message = folder.string() + ": cannot be written: " + error.code().message();
        if (is_disk_fault(error.code())) throw ResourceError(message);
        throw CheckpointError(message);
    } catch (...) {
        clean_up();
        throw;
    }
}

void remove_leftovers_of(const fs::path& target) {
    const fs::path folder = fs::absolute(target);
    std::error_code error;
    std::vector<fs::path> leftovers;
    const std::string prefix = temporary_prefix_of(folder);
    for (const fs::directory_entry& entry : fs::directory_iterator(folder.parent_path(), error)) {
        if (is_abandoned(entry.path(), prefix)) leftovers.push_back(entry.path());
    }
    for (const fs::path& leftover : leftovers) {
        spdlog::info("{} was left by a process that was killed and is removed", leftover.string());
        remove_if_possible(leftover);
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
