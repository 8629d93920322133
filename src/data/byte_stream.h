#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>

namespace qlora::data {

/// Bytes one after another: of a file, or what they decompress to. What cannot be read is a DataError that
/// names the file.
class ByteStream {
  public:
    virtual ~ByteStream() = default;
    /// Fills `to` with `size` bytes, with fewer only at the end.
    virtual std::size_t read(char* to, std::size_t size) = 0;
};

/// `read()` rather than a mapping, because a mapped file that another process cuts would end the program with
/// SIGBUS.
std::unique_ptr<ByteStream> open_bytes(const std::filesystem::path& file);

}  // namespace qlora::data
