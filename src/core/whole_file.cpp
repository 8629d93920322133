#include "qlora/core/whole_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace qlora {

ReadError::ReadError(const std::filesystem::path& file, const std::string& action, int error)
    : Error(error == ENOMEM ? ExitCode::kResources : ExitCode::kInput,
            file.string() + ": cannot " + action + ": " + std::strerror(error)),
      is_missing_(error == ENOENT || error == ENOTDIR) {}

std::string read_whole_file(const std::filesystem::path& file) {
    struct Descriptor {
        int fd;
        ~Descriptor() {
            if (fd >= 0) ::close(fd);
        }
    };
    const Descriptor in{::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY)};
    if (in.fd < 0) throw ReadError(file, "open", errno);
    constexpr std::size_t kPiece = std::size_t{1} << 16;
    std::string bytes;
    for (std::size_t length = 0;;) {
        bytes.resize(length + kPiece);
        const ssize_t count = ::read(in.fd, bytes.data() + length, kPiece);
        if (count < 0 && errno != EINTR) throw ReadError(file, "read", errno);
        if (count > 0) length += static_cast<std::size_t>(count);
        bytes.resize(length);
        if (count == 0) return bytes;
    }
}

}  // namespace qlora
