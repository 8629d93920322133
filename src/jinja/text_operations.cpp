#include "text_operations.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "print.h"
#include "qlora/core/code_points.h"

namespace qlora::jinja {
namespace {

// Which characters strip() takes.
class CharacterSet {
  public:
    explicit CharacterSet(const Text* characters) : is_space_(characters == nullptr) {
        if (is_space_) return;
        for (std::size_t i = 0; i < characters->bytes.size(); i += utf8_length(characters->bytes[i]))
            codes_.push_back(decode_utf8(characters->bytes, i));
        std::sort(codes_.begin(), codes_.end());
    }
    bool has(char32_t code) const {
        return is_space_ ? is_python_space(code) : std::binary_search(codes_.begin(), codes_.end(), code);
    }

  private:
    bool is_space_;
    std::vector<char32_t> codes_;
};

std::size_t character_before(std::string_view bytes, std::size_t offset) {
    do --offset;
    while (offset > 0 && is_utf8_continuation(bytes[offset]));
    return offset;
}

std::size_t skip(std::string_view bytes, std::size_t offset, const CharacterSet& set, bool wanted) {
    while (offset < bytes.size() && set.has(decode_utf8(bytes, offset)) == wanted)
        offset += utf8_length(bytes[offset]);
    return offset;
}

std::size_t skip_back(std::string_view bytes, std::size_t begin, std::size_t offset, const CharacterSet& set,
                      bool wanted) {
    while (offset > begin) {
        const std::size_t before = character_before(bytes, offset);
        if (set.has(decode_utf8(bytes, before)) != wanted) break;
        offset = before;
    }
    return offset;
}

// Pieces of a text in the making; counted, so that no list grows past its bound.
class Pieces {
  public:
    Pieces(Runtime& runtime, const Text& text) : runtime_(runtime), text_(text) {}
    void add(std::size_t begin, std::size_t end) {
        runtime_.budget.check_items(items_.size() + 1);
        items_.emplace_back(cut(runtime_.budget, text_, begin, end));
    }
    std::vector<Value> take() { return std::move(items_); }
    std::vector<Value> take_reversed() {
        std::reverse(items_.begin(), items_.end());
        return take();
    }

  private:
    Runtime& runtime_;
    const Text& text_;
    std::vector<Value> items_;
};

std::int64_t cuts_allowed(std::int64_t most) {
    return most < 0 ? std::numeric_limits<std::int64_t>::max() : most;
}

bool ends_line(char32_t code) {
    return (code >= 0x0A && code <= 0x0D) || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
           code == 0x2028 || code == 0x2029;
}

}  // namespace

std::size_t find_text(Budget& budget, std::string_view text, std::string_view wanted, std::size_t from) {
    if (from > text.size()) return std::string_view::npos;
    // memmem compares long texts more slowly.
    const std::size_t cost = wanted.size() > 64 ? Budget::kScan : 4;
    const void* found = memmem(text.data() + from, text.size() - from, wanted.data(), wanted.size());
    if (found == nullptr) {
        budget.touch(cost * (text.size() - from));
        return std::string_view::npos;
    }
    const auto offset = static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
    budget.touch(cost * (offset - from));
    return offset;
}

TextPtr strip(Runtime& runtime, const Text& text, Side side, const Text* characters) {
    const CharacterSet set(characters);
    std::size_t begin = 0, end = text.bytes.size();
    if (side != Side::kRight) begin = skip(text.bytes, 0, set, true);
    if (side != Side::kLeft) end = skip_back(text.bytes, begin, end, set, true);
    runtime.budget.touch((begin + text.bytes.size() - end) * Budget::kScan);
    return cut(runtime.budget, text, begin, end);
}

std::vector<Value> split(Runtime& runtime, const Text& text, const Text* separator, std::int64_t most) {
    Pieces pieces(runtime, text);
    std::int64_t left = cuts_allowed(most);
    const std::size_t size = text.bytes.size();
    if (separator != nullptr) {
        if (separator->bytes.empty()) runtime.fail("split needs a separator that is not empty");
        std::size_t begin = 0;
        for (; left > 0; --left) {
            const std::size_t end = find_text(runtime.budget, text.bytes, separator->bytes, begin);
            if (end == std::string_view::npos) break;
            pieces.add(begin, end);
            begin = end + separator->bytes.size();
        }
        pieces.add(begin, size);
        return pieces.take();
    }
    runtime.budget.touch(size * Budget::kScan);
    const CharacterSet space(nullptr);
    std::size_t begin = skip(text.bytes, 0, space, true);
    for (; begin < size && left > 0; --left) {
        const std::size_t end = skip(text.bytes, begin, space, false);
        pieces.add(begin, end);
        begin = skip(text.bytes, end, space, true);
    }
    if (begin < size) pieces.add(begin, size);
    return pieces.take();
}

std::vector<Value> split_from_right(Runtime& runtime, const Text& text, const Text* separator,
                                    std::int64_t most) {
    Pieces pieces(runtime, text);
    std::int64_t left = cuts_allowed(most);
    std::size_t end = text.bytes.size();
    if (separator != nullptr) {
        if (separator->bytes.empty()) runtime.fail("rsplit needs a separator that is not empty");
        // From the right is from the left in what is spelled backwards, which takes no longer.
        const std::size_t size = end, width = separator->bytes.size();
        runtime.budget.touch((size + width) * Budget::kScan);
        const Charge charge(&runtime.budget, size + width);
        const std::string backwards(text.bytes.rbegin(), text.bytes.rend());
        const std::string wanted(separator->bytes.rbegin(), separator->bytes.rend());
        for (; left > 0; --left) {
            const std::size_t found = find_text(runtime.budget, backwards, wanted, size - end);
            if (found == std::string_view::npos) break;
            pieces.add(size - found, end);
            end = size - found - width;
        }
        pieces.add(0, end);
        return pieces.take_reversed();
    }
    runtime.budget.touch(end * Budget::kScan);
    const CharacterSet space(nullptr);
    end = skip_back(text.bytes, 0, end, space, true);
    for (; end > 0 && left > 0; --left) {
        const std::size_t begin = skip_back(text.bytes, 0, end, space, false);
        pieces.add(begin, end);
        end = skip_back(text.bytes, 0, begin, space, true);
    }
    if (end > 0) pieces.add(0, end);
    return pieces.take_reversed();
}

std::vector<Value> split_lines(Runtime& runtime, const Text& text) {
    Pieces pieces(runtime, text);
    runtime.budget.touch(text.bytes.size() * Budget::kScan);
    std::size_t begin = 0;
    for (std::size_t i = 0; i < text.bytes.size();) {
        const char32_t code = decode_utf8(text.bytes, i);
        const std::size_t next = i + utf8_length(text.bytes[i]);
        if (!ends_line(code)) {
            i = next;
            continue;
        }
        pieces.add(begin, i);
        i = code == '\r' && next < text.bytes.size() && text.bytes[next] == '\n' ? next + 1 : next;
        begin = i;
    }
    if (begin < text.bytes.size()) pieces.add(begin, text.bytes.size());
    return pieces.take();
}

TextPtr replace(Runtime& runtime, const Text& text, const Text& old, const Text& with, std::int64_t most,
                bool is_markup) {
    std::int64_t left = cuts_allowed(most);
    TextBuilder out(runtime.budget);
    std::size_t begin = 0;
    if (old.bytes.empty()) {  // before each character and at the end
        for (; left > 0; --left) {
            out.append(with);
            if (begin == text.bytes.size()) break;
            const std::size_t next = begin + utf8_length(text.bytes[begin]);
            out.append(text, begin, next);
            runtime.budget.step();
            begin = next;
        }
    } else {
        for (; left > 0; --left) {
            const std::size_t found = find_text(runtime.budget, text.bytes, old.bytes, begin);
            if (found == std::string_view::npos) break;
            out.append(text, begin, found);
            out.append(with);
            runtime.budget.step();
            begin = found + old.bytes.size();
        }
    }
    out.append(text, begin, text.bytes.size());
    return out.finish(is_markup);
}

TextPtr concatenate(Runtime& runtime, const Text& a, const Text& b, bool is_markup) {
    TextBuilder out(runtime.budget);
    out.append(a);
    out.append(b);
    return out.finish(is_markup);
}

TextPtr repeat(Runtime& runtime, const Text& text, std::int64_t times) {
    TextBuilder out(runtime.budget);
    if (times > 0 && !text.bytes.empty()) {
        const auto count = static_cast<std::size_t>(times);
        const std::size_t limit = runtime.budget.limits().live_bytes;
        runtime.budget.expect(count > limit ? limit + 1 : text.bytes.size() * count);
        runtime.budget.step(static_cast<std::int64_t>(count / 4));
        // Short texts in larger pieces.
        const std::size_t in_piece = std::min(count, 1 + 4096 / text.bytes.size());
        TextBuilder piece(runtime.budget);
        for (std::size_t i = 0; i < in_piece; ++i) piece.append(text);
        const TextPtr several = piece.finish();
        for (std::size_t i = 0; i < count / in_piece; ++i) out.append(*several);
        for (std::size_t i = 0; i < count % in_piece; ++i) out.append(text);
    }
    return out.finish(text.is_markup);
}

SliceRange clip_slice(std::int64_t length, std::optional<std::int64_t> start,
                      std::optional<std::int64_t> stop, std::int64_t step) {
    const std::int64_t lowest = step < 0 ? -1 : 0, highest = step < 0 ? length - 1 : length;
    const auto clip = [&](std::int64_t index) {
        if (index < 0) index = index < -length ? -1 : index + length;
        return std::clamp(index, lowest, std::max(highest, lowest));
    };
    const std::int64_t first = start ? clip(*start) : (step < 0 ? highest : lowest);
    const std::int64_t last = stop ? clip(*stop) : (step < 0 ? lowest : highest);
    if (step > 0) return {first, last > first ? (last - first - 1) / step + 1 : 0};
    // The magnitude of the least integer does not fit; any step longer than the sequence does the same.
    const std::int64_t width = step < -(length + 1) ? length + 1 : -step;
    return {first, first > last ? (first - last - 1) / width + 1 : 0};
}

TextPtr slice(Runtime& runtime, const Text& text, std::optional<std::int64_t> start,
              std::optional<std::int64_t> stop, std::int64_t step) {
    runtime.budget.touch(text.is_ascii ? 0 : text.bytes.size() * 4);
    const auto length = static_cast<std::int64_t>(text.length());
    const SliceRange range = clip_slice(length, start, stop, step);
    if (range.count == 0) return cut(runtime.budget, text, 0, 0);
    if (step == 1) {
        const std::size_t begin = text.offset_of(static_cast<std::size_t>(range.start));
        const std::size_t end = text.offset_of(static_cast<std::size_t>(range.start + range.count));
        return cut(runtime.budget, text, begin, end);
    }
    // One more character than there are, so that a step past the end needs no case of its own.
    TextBuilder out(runtime.budget);
    const Charge charge(&runtime.budget, (static_cast<std::size_t>(length) + 1) * sizeof(std::size_t));
    std::vector<std::size_t> offsets;
    offsets.reserve(static_cast<std::size_t>(length) + 1);
    for (std::size_t i = 0; i < text.bytes.size(); i += utf8_length(text.bytes[i])) offsets.push_back(i);
    offsets.push_back(text.bytes.size());
    runtime.budget.step(range.count);
    for (std::int64_t i = 0; i < range.count; ++i) {
        const auto place = static_cast<std::size_t>(range.start + i * step);
        out.append(text, offsets[place], offsets[place + 1]);
    }
    return out.finish(text.is_markup);
}

TextPtr character(Runtime& runtime, const Text& text, std::int64_t index) {
    runtime.budget.touch(text.is_ascii ? 0 : text.bytes.size() * 2);
    const std::size_t begin = text.offset_of(static_cast<std::size_t>(index));
    return cut(runtime.budget, text, begin, begin + utf8_length(text.bytes[begin]));
}

TextPtr join(Runtime& runtime, const Text& separator, const std::vector<Value>& items, bool is_markup) {
    TextBuilder out(runtime.budget);
    for (std::size_t i = 0; i < items.size(); ++i) {
        runtime.budget.step();
        if (i > 0) out.append(separator);
        print(runtime, out, items[i]);
    }
    return out.finish(is_markup);
}

TextPtr indent(Runtime& runtime, const Text& text, const Text& indention, bool first, bool blank) {
    // The filter adds a line end before it splits, so that a text has one line at least, and a last line of
    // its own.
    std::vector<Value> lines = split_lines(runtime, text);
    const bool ends_in_line_end =
        !text.bytes.empty() &&
        ends_line(decode_utf8(text.bytes, character_before(text.bytes, text.bytes.size())));
    // After a final \r the added \n belongs to the same line end.
    if (lines.empty() || (ends_in_line_end && text.bytes.back() != '\r'))
        lines.emplace_back(cut(runtime.budget, text, 0, 0));
    TextBuilder out(runtime.budget);
    for (std::size_t i = 0; i < lines.size(); ++i) {
        runtime.budget.step();
        if (i > 0) out.append("\n");
        if (i == 0 ? first : (blank || !lines[i].text().bytes.empty())) out.append(indention);
        out.append(lines[i].text());
    }
    return out.finish(text.is_markup);
}

TextPtr escape_markup(Runtime& runtime, const Text& text) {
    TextBuilder out(runtime.budget);
    if (text.is_markup) {
        out.append(text);
        return out.finish(true);
    }
    std::size_t plain = 0;
    for (std::size_t i = 0; i < text.bytes.size(); ++i) {
        std::string_view reference;
        switch (text.bytes[i]) {
            case '&':
                reference = "&amp;";
                break;
            case '<':
                reference = "&lt;";
                break;
            case '>':
                reference = "&gt;";
                break;
            case '\'':
                reference = "&#39;";
                break;
            case '"':
                reference = "&#34;";
                break;
            default:
                continue;
        }
        out.append(text, plain, i);
        out.append_for(text, i, reference);
        plain = i + 1;
    }
    out.append(text, plain, text.bytes.size());
    return out.finish(true);
}

}  // namespace qlora::jinja
