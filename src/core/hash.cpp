#include "qlora/core/hash.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <new>
#include <vector>

#include "qlora/core/whole_file.h"

namespace qlora {

void Xxh3::Free::operator()(XXH3_state_s* state) const {
    XXH3_freeState(state);
}

Xxh3::Xxh3() : state_(XXH3_createState()) {
    if (state_ == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(state_.get());
}

void Xxh3::update(std::span<const std::byte> bytes) {
    if (!bytes.empty()) XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
}

std::string Xxh3::hex() const {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string out;
    for (const unsigned char byte : canonical.digest) {
        out += kDigits[byte >> 4];
        out += kDigits[byte & 15];
    }
    return out;
}

std::string hash_file(const std::filesystem::path& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) throw ReadError(path, "open", errno);
    const std::unique_ptr<const int, void (*)(const int*)> closer(&fd,
                                                                  [](const int* file) { ::close(*file); });
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    Xxh3 hash;
    std::vector<std::byte> buffer(std::size_t{1} << 20);
    for (;;) {
        const ssize_t count = ::read(fd, buffer.data(), buffer.size());
        if (count == 0) return hash.hex();
        if (count > 0) {
            hash.update(std::span(buffer).first(static_cast<std::size_t>(count)));
        } else if (errno != EINTR) {
            throw ReadError(path, "read", errno);
        }
    }
}

}  // namespace qlora
