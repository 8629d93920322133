#include "qlora/core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "qlora/core/error.h"

namespace qlora {

namespace {

/// Closes the descriptor when it goes; the mapping does not need it.
struct Descriptor {
    int fd;
    ~Descriptor() {
        if (fd >= 0) ::close(fd);
    }
};

Error cannot(const std::filesystem::path& path, const std::string& action, int error) {
    return Error(ExitCode::kInput, path.string() + ": cannot " + action + ": " + std::strerror(error));
}

FileIdentity identity_from(const struct stat& status) {
    const auto nanoseconds = [](const timespec& time) {
        return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
    };
    return {.device = status.st_dev,
            .inode = status.st_ino,
            .size = static_cast<std::uint64_t>(status.st_size),
            .modified = nanoseconds(status.st_mtim),
            .changed = nanoseconds(status.st_ctim)};
}

}  // namespace

std::optional<FileIdentity> identify(const std::filesystem::path& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) return std::nullopt;
    return identity_from(status);
}

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
    // O_NONBLOCK: opening a FIFO must not wait for its writer; it has no effect on regular files.
    const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)};
    if (file.fd < 0) throw cannot(path, "open", errno);
    struct stat status {};
    if (::fstat(file.fd, &status) != 0) throw cannot(path, "read the size", errno);
    if (!S_ISREG(status.st_mode)) throw Error(ExitCode::kInput, path.string() + ": not a regular file");
    size_ = static_cast<std::size_t>(status.st_size);
    identity_ = identity_from(status);
    if (size_ == 0) return;
    void* const data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (data == MAP_FAILED) {
        const int error = errno;
        size_ = 0;
        if (error != ENOMEM) throw cannot(path, "map", error);
        throw ResourceError(path.string() + ": no address space to map its " +
                            std::to_string(status.st_size) +
                            " bytes; raise the limit on virtual memory (ulimit -v)");
    }
    data_ = static_cast<const std::byte*>(data);
}

MappedFile::~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      identity_(other.identity_) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
    MappedFile taken(std::move(other));
    std::swap(path_, taken.path_);
    std::swap(data_, taken.data_);
    std::swap(size_, taken.size_);
    std::swap(identity_, taken.identity_);
    return *this;
}

void MappedFile::prefetch(std::size_t offset, std::size_t length) const {
    if (offset >= size_) return;
    const std::size_t first = offset - offset % static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t end = offset + std::min(length, size_ - offset);
    ::madvise(const_cast<std::byte*>(data_) + first, end - first, MADV_WILLNEED);
}

void MappedFile::release(std::size_t offset, std::size_t length) const {
    if (offset >= size_) return;
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t end = offset + std::min(length, size_ - offset);
    const std::size_t first = (offset + page - 1) / page * page;
    // The last page of the file is whole as far as the mapping goes.
    const std::size_t last = end == size_ ? end : end / page * page;
    if (first >= last) return;
    ::madvise(const_cast<std::byte*>(data_) + first, last - first, MADV_DONTNEED);
}

}  // namespace qlora
