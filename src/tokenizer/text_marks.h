#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "added_tokens.h"
#include "qlora/tokenizer/text_encoding.h"

namespace qlora::tokenizer {

/// Where in a text control tokens may stand, and the places that no token may cross. Collects the places
/// where one would have.
class TextMarks {
  public:
    /// One rule for the whole text, without cuts; the steps then need not know where their text comes from.
    static TextMarks everywhere(bool control_tokens);
    /// Throws DataError when `text` is not valid UTF-8, std::invalid_argument when the options do not fit it.
    TextMarks(std::string_view text, const TextEncodingOptions& options);

    bool tracks() const { return tracks_; }
    /// The cuts strictly inside `range`, ascending.
    std::vector<std::size_t> cuts_inside(ByteRange range) const;
    void note_crossed(std::size_t cut) { crossed_.push_back(cut); }
    std::vector<std::size_t> crossed_cuts() const;

    /// `source`: where the spelling of `token` stands in the text.
    Verdict judge(const AddedToken& token, ByteRange source);

  private:
    TextMarks() = default;
    bool is_control(const AddedToken& token) const;

    bool tracks_ = false;
    bool all_plain_ = false;
    std::vector<ByteRange> plain_;  // those that touch are joined
    std::vector<std::size_t> cuts_;
    std::vector<TokenId> control_tokens_;
    std::vector<std::size_t> crossed_;
};

}  // namespace qlora::tokenizer
