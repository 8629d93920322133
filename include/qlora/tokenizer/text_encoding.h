#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace qlora::tokenizer {

using TokenId = std::int32_t;

/// Bytes [begin, end) of a text.
struct ByteRange {
    std::size_t begin = 0;
    std::size_t end = 0;

    bool operator==(const ByteRange&) const = default;
};

/// How Tokenizer::encode_text reads a rendered text. All offsets are bytes and stand at the start of a
/// character.
struct TextEncodingOptions {
    /// What a message says; ascending, not overlapping. No byte of it becomes part of a control token: a
    /// spelling of one is text together with what stands around it, also where it only comes to be across the
    /// range's edge. The white space that a token with `lstrip` or `rstrip` takes along is no part of it.
    /// Tokens that are added but no control tokens are found everywhere.
    std::vector<ByteRange> plain_ranges;
    /// Places that no token may cross; ascending. The word in which one would is encoded as two sides.
    std::vector<std::size_t> cuts;
    /// Control tokens besides those that the vocabulary marks as special.
    std::vector<TokenId> control_tokens;
};

/// The tokens of a text, and the bytes that each stands for.
struct EncodedText {
    std::vector<TokenId> ids;
    /// One an id; begins never descend. Bytes of a character that is several tokens are told apart where the
    /// character is as the text has it; what a normalizer has changed stands for all that it was made of. A
    /// blank that the tokenizer puts before a text stands for nothing, an empty range. The white space that
    /// an added token takes along belongs to no range.
    std::vector<ByteRange> ranges;
    /// The cuts at which a token would have stood across, ascending.
    std::vector<std::size_t> crossed_cuts;
};

}  // namespace qlora::tokenizer
