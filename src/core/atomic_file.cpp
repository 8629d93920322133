#include "qlora/core/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "qlora/core/atomic_folder.h"
#include "qlora/core/disk_space.h"
#include "qlora/core/error.h"

namespace qlora {

namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 18;

std::filesystem::path folder_of(const std::filesystem::path& path) {
    return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

[[noreturn]] void throw_failure(const std::filesystem::path& path, std::optional<std::uint64_t> needed,
                                const std::string& action, int error) {
    if (error == ENOSPC) throw disk_full(path, needed, "the disk is full");
    if (error == EDQUOT) throw disk_full(path, needed, "the disk quota is used up");
    const std::string message = path.string() + ": cannot " + action + ": " + std::strerror(error);
    if (error == EIO) throw ResourceError(message);
    throw CheckpointError(message);
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path path, std::optional<std::uint64_t> expected_bytes)
    : path_(std::move(path)), expected_bytes_(expected_bytes) {
    const std::filesystem::path folder = folder_of(path_);
    if (expected_bytes_) require_free_space(path_, *expected_bytes_);
    buffer_.reserve(kBufferBytes);
    // A killed process with the same id may have left a file: such names are passed over.
    static std::atomic<unsigned> counter{0};
    do {
        temporary_ =
            folder / (kTemporaryPrefix + std::to_string(::getpid()) + "-" + std::to_string(counter++));
        fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (fd_ < 0 && (errno == EEXIST || errno == EINTR));
    if (fd_ < 0) {
        const int error = errno;
        temporary_.clear();
        fail("create a file in " + folder.string(), error);
    }
}

AtomicFile::~AtomicFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
    if (fd_ < 0) throw Error(ExitCode::kInternal, path_.string() + ": written to after it was committed");
    written_ += bytes.size();
    if (buffer_.size() + bytes.size() > kBufferBytes) flush();
    if (bytes.size() >= kBufferBytes) {
        write_through(bytes);
    } else {
        buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    }
}

void AtomicFile::flush() {
    write_through(buffer_);
    buffer_.clear();
}

void AtomicFile::write_through(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t count = ::write(fd_, bytes.data(), bytes.size());
        if (count > 0) {
            bytes = bytes.subspan(static_cast<std::size_t>(count));
        } else if (count == 0 || errno != EINTR) {
            fail("write", count == 0 ? EIO : errno);
        }
    }
}

void AtomicFile::commit() {
    if (fd_ < 0) throw Error(ExitCode::kInternal, path_.string() + ": committed twice");
    flush();
    if (::fsync(fd_) != 0) fail("sync", errno);
    // A network file system may report a full disk only here.
    if (::close(std::exchange(fd_, -1)) != 0 && errno != EINTR) fail("close", errno);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename the finished file", errno);
    temporary_.clear();
    sync_folder(folder_of(path_));
}

void AtomicFile::fail(const std::string& action, int error) const {
    throw_failure(path_, expected_bytes_, action, error);
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
    AtomicFile file(path, text.size());
    file.write(text);
    file.commit();
}

void sync_folder(const std::filesystem::path& folder) {
    const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    // EINVAL: a file system whose folders cannot be synced; nothing more can be done there.
    const bool synced = fd >= 0 && (::fsync(fd) == 0 || errno == EINVAL);
    const int error = errno;
    if (fd >= 0) ::close(fd);
    if (!synced) throw_failure(folder, {}, "sync the folder", error);
}

}  // namespace qlora
