#include "text_marks.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "qlora/core/error.h"
#include "qlora/core/utf8.h"

namespace qlora::tokenizer {
namespace {

// Sources are kept as 32 bits, two for each byte.
constexpr std::size_t kLongestText = UINT32_MAX;

void check_offset(std::string_view text, std::size_t offset, std::size_t not_before) {
    const bool fits = offset >= not_before && offset <= text.size() &&
                      (offset == text.size() || (static_cast<unsigned char>(text[offset]) & 0xC0) != 0x80);
    if (!fits)
        throw std::invalid_argument("encode_text: the offset " + std::to_string(offset) + " does not fit");
}

}  // namespace

TextMarks TextMarks::everywhere(bool control_tokens) {
    TextMarks marks;
    marks.all_plain_ = !control_tokens;
    return marks;
}

TextMarks::TextMarks(std::string_view text, const TextEncodingOptions& options)
    : tracks_(true), control_tokens_(options.control_tokens) {
    const std::size_t invalid = find_invalid_utf8(text);
    if (invalid != std::string_view::npos) {
        throw DataError("the text to encode is not valid UTF-8 (byte " + std::to_string(invalid) + ")");
    }
    if (text.size() > kLongestText) throw DataError("the text to encode is larger than 4 GiB");
    std::size_t done = 0;
    for (const ByteRange& range : options.plain_ranges) {
        check_offset(text, range.begin, done);
        check_offset(text, range.end, range.begin);
        done = range.end;
        if (range.begin == range.end) continue;
        if (!plain_.empty() && plain_.back().end == range.begin) {
            plain_.back().end = range.end;
        } else {
            plain_.push_back(range);
        }
    }
    done = 0;
    for (const std::size_t cut : options.cuts) {
        check_offset(text, cut, done);
        done = cut;
        if (cuts_.empty() || cuts_.back() != cut) cuts_.push_back(cut);
    }
}

std::vector<std::size_t> TextMarks::cuts_inside(ByteRange range) const {
    const auto first = std::upper_bound(cuts_.begin(), cuts_.end(), range.begin);
    return {first, std::lower_bound(first, cuts_.end(), std::max(range.begin, range.end))};
}

std::vector<std::size_t> TextMarks::crossed_cuts() const {
    std::vector<std::size_t> cuts = crossed_;
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    return cuts;
}

bool TextMarks::is_control(const AddedToken& token) const {
    return token.special ||
           std::find(control_tokens_.begin(), control_tokens_.end(), token.id) != control_tokens_.end();
}

Verdict TextMarks::judge(const AddedToken& token, ByteRange source) {
    if (!tracks_) return all_plain_ && token.special ? Verdict::kText : Verdict::kToken;
    if (is_control(token)) {
        const auto range = std::partition_point(
            plain_.begin(), plain_.end(), [&](const ByteRange& plain) { return plain.end <= source.begin; });
        if (range != plain_.end() && range->begin < source.end) {
            const bool inside = range->begin <= source.begin && source.end <= range->end;
            return inside ? Verdict::kText : Verdict::kAnew;
        }
    }
    const std::vector<std::size_t> cuts = cuts_inside(source);
    for (const std::size_t cut : cuts) note_crossed(cut);
    return cuts.empty() ? Verdict::kToken : Verdict::kAnew;
}

}  // namespace qlora::tokenizer
