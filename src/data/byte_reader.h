#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "byte_stream.h"
#include "qlora/core/hash.h"

namespace qlora::data {

/// Reads a stream in pieces of 64 KiB, and hashes it when told to.
class ByteReader {
  public:
    explicit ByteReader(std::unique_ptr<ByteStream> stream);

    /// The unread rest of the current piece, the next piece when there is none; empty at the end.
    std::string_view peek();
    void skip(std::size_t bytes) { begin_ += bytes; }
    /// From here on: what `peek` shows goes into `hash` too.
    void hash_into(Xxh3& hash);
    /// Reads the rest, so that the hash covers all of it.
    void drain();

  private:
    std::unique_ptr<ByteStream> stream_;
    Xxh3* hash_ = nullptr;
    std::vector<char> buffer_;
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
};

}  // namespace qlora::data
