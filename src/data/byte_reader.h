#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>
#include <vector>

#include "qlora/core/hash.h"

namespace qlora::data {

/// Reads a file in pieces of 64 KiB and hashes what it reads.
class ByteReader {
  public:
    ByteReader(const std::filesystem::path& file, Xxh3& hash);
    ~ByteReader();
    ByteReader(const ByteReader&) = delete;
    ByteReader& operator=(const ByteReader&) = delete;

    /// The unread rest of the current piece, the next piece when there is none; empty at the end of the file.
    std::string_view peek();
    void skip(std::size_t bytes) { begin_ += bytes; }
    /// Reads the rest, so that the hash covers the whole file.
    void drain();

  private:
    std::filesystem::path file_;
    Xxh3& hash_;
    int descriptor_;
    std::vector<char> buffer_;
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
};

}  // namespace qlora::data
