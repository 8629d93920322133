#pragma once

#include <cstddef>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "added_tokens.h"
#include "qlora/tokenizer/text_encoding.h"

namespace qlora::tokenizer {

/// Where in a text control tokens may stand, and the places that no token may cross.
class TextMarks {
  public:
    /// One rule for the whole text, without cuts; the steps then need not know where their text comes from.
    static TextMarks everywhere(bool control_tokens);
    /// Without the cuts of the options. Throws DataError when `text` is not valid UTF-8,
    /// std::invalid_argument when the plain ranges do not fit it.
    TextMarks(std::string_view text, const TextEncodingOptions& options);
    /// Ascending.
    void set_cuts(std::vector<std::size_t> cuts) { cuts_ = std::move(cuts); }

    bool tracks() const { return tracks_; }
    bool has_cuts() const { return !cuts_.empty(); }
    /// The cuts strictly inside `range`, ascending.
    std::vector<std::size_t> cuts_inside(ByteRange range) const;

    /// Whether `token` is a control token and would stand on what a message says. `source`: its place in the
    /// text.
    bool is_plain_control(const AddedToken& token, ByteRange source) const;
    Verdict judge(const AddedToken& token, ByteRange source) const;

  private:
    TextMarks() = default;
    /// The first plain range that ends behind `offset`; the end: none.
    std::vector<ByteRange>::const_iterator plain_after(std::size_t offset) const;

    bool tracks_ = false;
    bool all_plain_ = false;
    std::vector<ByteRange> plain_;  // those that touch are joined
    std::vector<std::size_t> cuts_;
    std::vector<TokenId> control_tokens_;
};

/// Encodes by `encode`, at first without cuts: only where tokens cross them is the text encoded again.
EncodedText encode_at_cuts(std::string_view text, const TextEncodingOptions& options,
                           const std::function<EncodedText(const TextMarks&)>& encode);

}  // namespace qlora::tokenizer
