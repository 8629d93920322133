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

// The cuts at which a token stands across; the ranges begin in ascending order.
std::vector<std::size_t> crossed_cuts(const std::vector<ByteRange>& ranges,
                                      const std::vector<std::size_t>& cuts) {
    std::vector<std::size_t> crossed;
    auto range = ranges.begin();
    std::size_t end = 0;  // of all ranges that begin before the cut
    for (const std::size_t cut : cuts) {
        for (; range != ranges.end() && range->begin < cut; ++range) end = std::max(end, range->end);
        if (end > cut && (crossed.empty() || crossed.back() != cut)) crossed.push_back(cut);
    }
    return crossed;
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
}

std::vector<std::size_t> TextMarks::cuts_inside(ByteRange range) const {
    const auto first = std::upper_bound(cuts_.begin(), cuts_.end(), range.begin);
    return {first, std::lower_bound(first, cuts_.end(), std::max(range.begin, range.end))};
}

std::vector<ByteRange>::const_iterator TextMarks::plain_after(std::size_t offset) const {
    return std::partition_point(plain_.begin(), plain_.end(),
                                [&](const ByteRange& plain) { return plain.end <= offset; });
}

bool TextMarks::is_plain_control(const AddedToken& token, ByteRange source) const {
    const auto range = plain_after(source.begin);
    if (range == plain_.end() || range->begin >= source.end) return false;
    return token.special ||
           std::find(control_tokens_.begin(), control_tokens_.end(), token.id) != control_tokens_.end();
}

Verdict TextMarks::judge(const AddedToken& token, ByteRange source) const {
    if (!tracks_) return all_plain_ && token.special ? Verdict::kText : Verdict::kToken;
    if (is_plain_control(token, source)) {
        const auto range = plain_after(source.begin);
        const bool inside = range->begin <= source.begin && source.end <= range->end;
        return inside ? Verdict::kText : Verdict::kAnew;
    }
    return cuts_inside(source).empty() ? Verdict::kToken : Verdict::kAnew;
}

EncodedText encode_at_cuts(std::string_view text, const TextEncodingOptions& options,
                           const std::function<EncodedText(const TextMarks&)>& encode) {
    TextMarks marks(text, options);
    std::size_t before = 0;
    for (const std::size_t cut : options.cuts) {
        check_offset(text, cut, before);
        before = cut;
    }
    EncodedText encoded = encode(marks);
    std::vector<std::size_t> crossed = crossed_cuts(encoded.ranges, options.cuts);
    if (crossed.empty()) return encoded;
    marks.set_cuts(crossed);
    encoded = encode(marks);
    // What stands between two cuts may have become other tokens.
    const std::vector<std::size_t> more = crossed_cuts(encoded.ranges, options.cuts);
    if (!more.empty()) {
        marks.set_cuts(options.cuts);
        encoded = encode(marks);
        crossed.insert(crossed.end(), more.begin(), more.end());
        std::sort(crossed.begin(), crossed.end());
    }
    encoded.crossed_cuts = std::move(crossed);
    return encoded;
}

}  // namespace qlora::tokenizer
