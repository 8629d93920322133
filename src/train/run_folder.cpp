#include "qlora/train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "qlora/core/error.h"

namespace qlora::train {

bool RunPaths::holds_run() const {
    return std::filesystem::exists(run_config()) || std::filesystem::exists(metrics()) ||
           std::filesystem::exists(adapter()) || std::filesystem::exists(checkpoints());
}

RunLock::RunLock(const RunPaths& paths) {
    std::error_code error;
    std::filesystem::create_directories(paths.root, error);
    if (error) {
        throw ConfigError("training.output_dir: " + paths.root.string() + " cannot be made: " + error.message());
    }
    fd_ = open(paths.lock().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) {
        throw ConfigError("training.output_dir: " + paths.root.string() + " cannot be written: " + std::strerror(errno));
    }
    if (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
        char owner[32] = {};
        const ssize_t length = pread(fd_, owner, sizeof(owner) - 1, 0);
        close(fd_);
        fd_ = -1;
        throw ConfigError("training.output_dir: " + paths.root.string() + " is in use by another run (process " +
                          (length > 0 ? std::string(owner) : std::string("unknown")) +
                          "); wait for it or choose another folder");
    }
    const std::string pid = std::to_string(getpid());
    if (ftruncate(fd_, 0) != 0 || pwrite(fd_, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
        // The lock itself holds; only the pid in another run's message is missing.
    }
}

RunLock::~RunLock() {
    if (fd_ >= 0) close(fd_);
}

}  // namespace qlora::train
