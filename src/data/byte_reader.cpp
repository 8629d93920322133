#include "byte_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "qlora/core/error.h"

namespace qlora::data {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{64} << 10;

[[noreturn]] void fail(const std::filesystem::path& file, const char* what) {
    throw DataError(file.string() + ": cannot be " + what + ": " + std::strerror(errno));
}

}  // namespace

ByteReader::ByteReader(const std::filesystem::path& file, Xxh3& hash)
    : file_(file),
      hash_(hash),
      descriptor_(::open(file.c_str(), O_RDONLY | O_CLOEXEC)),
      buffer_(kPieceBytes) {
    if (descriptor_ < 0) fail(file_, "opened");
}

ByteReader::~ByteReader() {
    ::close(descriptor_);
}

std::string_view ByteReader::peek() {
    if (begin_ == end_) {
        begin_ = end_ = 0;
        // A pipe gives less at a time; what looks at a file's beginning needs the whole piece.
        while (end_ < buffer_.size()) {
            const ssize_t got = ::read(descriptor_, buffer_.data() + end_, buffer_.size() - end_);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) fail(file_, "read");
            if (got == 0) break;
            end_ += static_cast<std::size_t>(got);
        }
        hash_.update(std::string_view(buffer_.data(), end_));
    }
    return {buffer_.data() + begin_, end_ - begin_};
}

void ByteReader::drain() {
    while (!peek().empty()) begin_ = end_;
}

}  // namespace qlora::data
