#include "byte_stream.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "qlora/core/error.h"

namespace qlora::data {
namespace {

class FileBytes final : public ByteStream {
  public:
    explicit FileBytes(const std::filesystem::path& file)
        : file_(file), descriptor_(::open(file.c_str(), O_RDONLY | O_CLOEXEC)) {
        if (descriptor_ < 0) fail("opened");
    }
    ~FileBytes() override { ::close(descriptor_); }
    FileBytes(const FileBytes&) = delete;
    FileBytes& operator=(const FileBytes&) = delete;

    std::size_t read(char* to, std::size_t size) override {
        std::size_t filled = 0;
        // A pipe gives less at a time.
        while (filled < size) {
            const ssize_t got = ::read(descriptor_, to + filled, size - filled);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) fail("read");
            if (got == 0) break;
            filled += static_cast<std::size_t>(got);
        }
        return filled;
    }

  private:
    [[noreturn]] void fail(const char* what) const {
        throw DataError(file_.string() + ": cannot be " + what + ": " + std::strerror(errno));
    }

    std::filesystem::path file_;
    int descriptor_;
};

}  // namespace

std::unique_ptr<ByteStream> open_bytes(const std::filesystem::path& file) {
    return std::make_unique<FileBytes>(file);
}

}  // namespace qlora::data
