#include "qlora/train/run_folder.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"

namespace qlora::train {
namespace {

namespace fs = std::filesystem;

std::string read_pid(int fd) {
    char text[32] = {};
    const ssize_t length = ::pread(fd, text, sizeof(text) - 1, 0);
    return length > 0 ? std::string(text) : std::string();
}

bool is_alive(const std::string& pid) {
    int number = 0;
    const auto [stop, error] = std::from_chars(pid.data(), pid.data() + pid.size(), number);
    if (error != std::errc() || stop != pid.data() + pid.size() || number <= 0) return false;
    return ::kill(number, 0) == 0 || errno == EPERM;
}

/// Who holds the lock. The winner of a race writes its id a moment after it has the lock; until then the file
/// is empty or names the owner before.
std::string owner_of(int fd) {
    constexpr int kTries = 100;
    std::string pid;
    for (int i = 0; i < kTries; ++i) {
        pid = read_pid(fd);
        if (is_alive(pid)) return pid;
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return pid.empty() ? "unknown" : pid;
}

/// Whether `fd` is still the file under that name: the owner before removes it when it ends.
bool is_under_name(int fd, const fs::path& file) {
    struct stat opened {
    }, named{};
    return ::fstat(fd, &opened) == 0 && ::stat(file.c_str(), &named) == 0 && opened.st_dev == named.st_dev &&
           opened.st_ino == named.st_ino;
}

[[noreturn]] void refuse(const fs::path& root, const std::string& reason) {
    throw ConfigError("training.output_dir: " + root.string() + " " + reason);
}

int open_lock(const RunPaths& paths) {
    const int fd = ::open(paths.lock().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) refuse(paths.root, std::string("cannot be written: ") + std::strerror(errno));
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
    const int error = errno;
    const std::string owner = error == EWOULDBLOCK ? owner_of(fd) : "";
    ::close(fd);
    if (error != EWOULDBLOCK) refuse(paths.root, std::string("cannot be locked: ") + std::strerror(error));
    refuse(paths.root,
           "is in use by another run (process " + owner + "); wait for it or choose another folder");
}

}  // namespace

bool RunPaths::holds_run() const {
    return fs::exists(run_config()) || fs::exists(metrics()) || fs::exists(adapter()) ||
           fs::exists(checkpoints());
}

RunLock::RunLock(const RunPaths& paths) : file_(paths.lock()) {
    std::error_code error;
    for (fs::path folder = paths.root; !folder.empty() && !fs::exists(folder, error);
         folder = folder.parent_path()) {
        made_.push_back(folder);
    }
    fs::create_directories(paths.root, error);
    if (error) refuse(paths.root, "cannot be made: " + error.message());
    if (!fs::is_directory(paths.root)) refuse(paths.root, "is not a folder");
    sync_names();
    do {
        if (fd_ >= 0) ::close(fd_);
        fd_ = open_lock(paths);
    } while (!is_under_name(fd_, file_));
    const std::string pid = std::to_string(::getpid());
    if (::ftruncate(fd_, 0) != 0 ||
        ::pwrite(fd_, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
        // The lock itself holds; only the pid in another run's message is missing.
    }
}

void RunLock::sync_names() {
    try {
        for (const fs::path& folder : made_) sync_folder(fs::absolute(folder).parent_path());
    } catch (...) {
        remove_empty_folders();
        throw;
    }
}

RunLock::~RunLock() {
    ::unlink(file_.c_str());
    ::close(fd_);
    remove_empty_folders();
}

void RunLock::remove_empty_folders() {
    // remove() takes empty folders only.
    std::error_code ignored;
    for (const fs::path& folder : made_) fs::remove(folder, ignored);
}

}  // namespace qlora::train
