#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "qlora/tokenizer/text_encoding.h"

namespace qlora::tokenizer {

/// A token of a word, and the word's bytes [begin, end) that it stands for.
struct WordToken {
    TokenId id;
    std::uint32_t begin;
    std::uint32_t end;
};

/// Short words and their tokens, for several threads at once. Nothing is ever taken out or changed, so that
/// looking up takes no lock; where the cache is full, new words stay out.
class WordCache {
  public:
    WordCache();
    /// Puts the word's tokens into `out`; false where the word is not known.
    bool find(std::string_view word, std::vector<WordToken>& out) const;
    void add(std::string_view word, const std::vector<WordToken>& tokens);

  private:
    struct Entry;  // its tokens and its word stand behind it in memory

    /// Where the word stands, or where it would be put.
    std::atomic<const Entry*>& slot_of(std::string_view word, std::size_t hash) const;
    std::byte* room_for(std::size_t bytes);

    std::unique_ptr<std::atomic<const Entry*>[]> slots_;
    std::mutex adding_;
    std::size_t words_ = 0;
    std::vector<std::unique_ptr<std::byte[]>> chunks_;
    std::size_t used_ = 0;  // bytes of the last chunk
};

}  // namespace qlora::tokenizer
