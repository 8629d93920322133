#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

struct XXH3_state_s;

namespace qlora {

/// Streaming XXH3-128. Fast and well mixed, but not cryptographic: it finds accidents, not forgeries.
class Xxh3 {
  public:
    Xxh3();

    void update(std::span<const std::byte> bytes);
    void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
    /// 32 lower-case hex digits (the canonical, big-endian form) of everything so far; updates may go on.
    std::string hex() const;

  private:
    struct Free {
        void operator()(XXH3_state_s* state) const;
    };
    std::unique_ptr<XXH3_state_s, Free> state_;
};

/// Hash of a file's content, read in pieces. Throws ReadError.
std::string hash_file(const std::filesystem::path& path);

}  // namespace qlora
