#include "aligned_text.h"

#include <algorithm>

namespace qlora::tokenizer {

AlignedText::AlignedText(std::string_view part, std::size_t offset, const TextMarks& marks)
    : text_(part), marks_(&marks), offset_(offset) {}

ByteRange AlignedText::source(std::size_t begin, std::size_t end) const {
    if (is_exact_) return {offset_ + begin, offset_ + end};
    if (sources_.empty()) return {offset_, offset_};
    if (begin == end) {
        const std::size_t place = begin < sources_.size() ? sources_[begin].begin : sources_.back().end;
        return {place, place};
    }
    std::size_t last = 0;
    for (std::size_t i = begin; i < end; ++i) last = std::max<std::size_t>(last, sources_[i].end);
    return {sources_[begin].begin, last};
}

AlignedText AlignedText::slice(std::size_t begin, std::size_t end) const {
    AlignedText part(std::string_view(text_).substr(begin, end - begin), source(begin, begin).begin, *marks_);
    if (is_exact_) return part;
    part.is_exact_ = false;
    part.sources_.assign(sources_.begin() + static_cast<std::ptrdiff_t>(begin),
                         sources_.begin() + static_cast<std::ptrdiff_t>(end));
    return part;
}

std::vector<std::size_t> AlignedText::cuts(std::size_t begin, std::size_t end) const {
    std::vector<std::size_t> found;
    if (!tracks() || !marks_->has_cuts() || begin == end) return found;
    for (const std::size_t offset : marks_->cuts_inside(source(begin, end))) {
        std::size_t position = offset - offset_;
        if (!is_exact_) {
            const auto first = sources_.begin() + static_cast<std::ptrdiff_t>(begin);
            const auto last = sources_.begin() + static_cast<std::ptrdiff_t>(end);
            const auto at =
                std::partition_point(first, last, [&](const Source& byte) { return byte.begin < offset; });
            position = static_cast<std::size_t>(at - sources_.begin());
        }
        if (position > begin && position < end) found.push_back(position);
    }
    return found;
}

AlignedText AlignedText::rewritten() const {
    AlignedText next("", source(0, 0).begin, *marks_);
    next.is_exact_ = !tracks();
    next.text_.reserve(text_.size() * 3 / 2);
    if (tracks()) next.sources_.reserve(text_.size() * 3 / 2);
    return next;
}

void AlignedText::keep(const AlignedText& from, std::size_t begin, std::size_t end) {
    text_.append(from.text_, begin, end - begin);
    if (!tracks()) return;
    if (!from.is_exact_) {
        sources_.insert(sources_.end(), from.sources_.begin() + static_cast<std::ptrdiff_t>(begin),
                        from.sources_.begin() + static_cast<std::ptrdiff_t>(end));
        return;
    }
    const std::size_t first = sources_.size();
    sources_.resize(first + end - begin);
    const auto place = static_cast<std::uint32_t>(from.offset_ + begin);
    for (std::uint32_t i = 0; i < end - begin; ++i) sources_[first + i] = {place + i, place + i + 1};
}

void AlignedText::put(std::string_view content, const AlignedText& from, std::size_t begin, std::size_t end) {
    text_ += content;
    if (!tracks()) return;
    const ByteRange place = from.source(begin, end);
    sources_.insert(sources_.end(), content.size(),
                    {static_cast<std::uint32_t>(place.begin), static_cast<std::uint32_t>(place.end)});
}

void AlignedText::spell(const AlignedText& from, std::size_t begin, std::size_t end,
                        const std::array<std::string, 256>& letters) {
    const auto letter_at = [&](std::size_t at) -> const std::string& {
        return letters[static_cast<unsigned char>(from.text_[at])];
    };
    while (begin < end) {
        // Most bytes stand for themselves, and go along together.
        std::size_t same = begin;
        while (same < end && letter_at(same).size() == 1 && letter_at(same)[0] == from.text_[same]) ++same;
        if (same > begin) keep(from, begin, same);
        if (same < end) put(letter_at(same), from, same, same + 1);
        begin = same + 1;
    }
}

}  // namespace qlora::tokenizer
