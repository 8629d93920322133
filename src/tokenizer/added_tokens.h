#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "qlora/tokenizer/text_encoding.h"

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

/// What becomes of a place that spells an added token.
enum class Verdict {
    kToken,
    kText,  ///< stays text, and none of it can become another token
    kAnew,  ///< is looked at as if there were no such token
};

/// Finds added tokens in a text: leftmost, then longest, never overlapping, as Hugging Face tokenizers does.
class AddedTokenMatcher {
  public:
    struct Segment {
        std::size_t begin;
        std::size_t end;
        std::optional<TokenId> token;  // none: text for the model
        ByteRange spelling;            // of a token: without the white space that it takes along
    };
    /// Asked for the place [begin, end) of the text, which spells the token.
    using Judge = std::function<Verdict(const AddedToken& token, std::size_t begin, std::size_t end)>;

    /// `spelling` is what is looked for: the content, or its normalized form; not empty. The first of equals
    /// wins.
    void add(const AddedToken& token, std::string_view spelling);
    /// Covers the text; segments overlap only where a token takes white space that spells the next one.
    std::vector<Segment> split(std::string_view text, const Judge& judge) const;

  private:
    static constexpr std::int32_t kNone = -1;
    struct Found {
        std::size_t end;
        std::int32_t token;
    };
    /// From the shortest to the longest.
    void find_at(std::string_view text, std::size_t begin, std::vector<Found>& found) const;

    std::vector<AddedToken> tokens_;
    // A trie over bytes; node 0 is the root, the key of an edge is node * 256 + byte.
    std::unordered_map<std::uint64_t, std::int32_t> edges_;
    std::vector<std::int32_t> token_of_node_{kNone};
    std::bitset<256> first_bytes_;
};

}  // namespace qlora::tokenizer
