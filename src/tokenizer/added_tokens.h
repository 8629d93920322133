#pragma once

#include <bitset>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "qlora/tokenizer/tokenizer.h"

namespace qlora::tokenizer {

/// A token that is found in the text itself, before the model sees the rest.
struct AddedToken {
    TokenId id = 0;
    std::string content;
    std::string decoded;       // what it decodes to: the content, normalized if `normalized`
    bool single_word = false;  // only where no word character touches it
    bool lstrip = false;       // takes the white space on its left along
    bool rstrip = false;
    bool normalized = false;  // looked for in the normalized text
    bool special = false;     // a control token: only recognised when asked for

    bool operator==(const AddedToken&) const = default;
};

/// Finds added tokens in a text: leftmost, then longest, never overlapping, as Hugging Face tokenizers does.
class AddedTokenMatcher {
  public:
    struct Segment {
        std::size_t begin;
        std::size_t end;
        std::optional<TokenId> token;  // none: text for the model
    };

    /// `spelling` is what is looked for: the content, or its normalized form; not empty. The first of equals
    /// wins.
    void add(const AddedToken& token, std::string_view spelling);
    /// With `parse_special` false, a special token stays text (yet its place cannot become another token).
    std::vector<Segment> split(std::string_view text, bool parse_special) const;

  private:
    static constexpr std::int32_t kNone = -1;
    struct Found {
        std::size_t end;
        std::int32_t token;
    };
    std::optional<Found> longest_at(std::string_view text, std::size_t begin) const;

    std::vector<AddedToken> tokens_;
    // A trie over bytes; node 0 is the root, the key of an edge is node * 256 + byte.
    std::unordered_map<std::uint64_t, std::int32_t> edges_;
    std::vector<std::int32_t> token_of_node_{kNone};
    std::bitset<256> first_bytes_;
};

}  // namespace qlora::tokenizer
