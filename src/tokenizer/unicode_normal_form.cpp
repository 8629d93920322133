#include "unicode_normal_form.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "unicode.h"

namespace qlora::tokenizer {
namespace {

bool is_ascii(std::string_view text) {
    return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

struct Range {
    char32_t first;
    char32_t last;
};

// tokenizers 0.23.3 normalizes by the tables of an old Unicode: what later versions decompose stays whole
// there, and later combining marks are not moved. tests/peers/test_tokenizer.py compares every code point.
constexpr Range kDecomposedLater[] = {
    {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xAB69, 0xAB69},   {0x10781, 0x107BA},
    {0x11938, 0x11938}, {0x1E030, 0x1E06D}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9},
};
constexpr Range kMarksLater[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0xA82C, 0xA82C},   {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50},
    {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42},
    {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF}};
constexpr utf8proc_int32_t kComposesLater = 0x11930;  // as the second half of U+11938, and in no other pair

template <std::size_t count>
bool is_in(const Range (&ranges)[count], utf8proc_int32_t value) {
    const auto* after = std::upper_bound(std::begin(ranges), std::end(ranges), static_cast<char32_t>(value),
                                         [](char32_t v, const Range& range) { return v < range.first; });
    return after != std::begin(ranges) && static_cast<char32_t>(value) <= std::prev(after)->last;
}

int combining_class(utf8proc_int32_t value) {
    if (value < 0x300 || is_in(kMarksLater, value)) return 0;
    return utf8proc_get_property(value)->combining_class;
}

void append_decomposed(char32_t value, NormalForm form, std::vector<utf8proc_int32_t>& points) {
    const auto point = static_cast<utf8proc_int32_t>(value);
    if (is_in(kDecomposedLater, point)) return points.push_back(point);
    const bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
    const int stable = UTF8PROC_STABLE | (compatible ? UTF8PROC_COMPAT : 0);
    constexpr int kLongest = 32;  // U+FDFA becomes 18
    utf8proc_int32_t parts[kLongest];
    int boundary = 0;
    const auto count = utf8proc_decompose_char(
        point, parts, kLongest, static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | stable), &boundary);
    points.insert(points.end(), parts, parts + std::clamp<utf8proc_ssize_t>(count, 0, kLongest));
}

// utf8proc orders marks by insertion, which a long run of them makes quadratic.
void order_marks(std::vector<utf8proc_int32_t>& points) {
    auto run = points.begin();
    while (run != points.end()) {
        if (combining_class(*run) == 0) {
            ++run;
            continue;
        }
        const auto end =
            std::find_if(run, points.end(), [](utf8proc_int32_t p) { return combining_class(p) == 0; });
        std::stable_sort(run, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
            return combining_class(a) < combining_class(b);
        });
        run = end;
    }
}

void compose_points(std::vector<utf8proc_int32_t>& points) {
    constexpr auto kCompose = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    const auto starts_anew = [](utf8proc_int32_t p) { return p == kComposesLater || is_in(kMarksLater, p); };
    auto kept = points.begin();
    for (auto begin = points.begin(); begin != points.end();) {
        const auto end = std::find_if(begin + 1, points.end(), starts_anew);
        const auto length = utf8proc_normalize_utf32(&*begin, end - begin, kCompose);
        kept = std::move(begin, begin + std::max<utf8proc_ssize_t>(length, 0), kept);
        begin = end;
    }
    points.erase(kept, points.end());
}

// Lower case that Unicode 16 and 17 gave, which utf8proc does not know. A stride of 2: every other one is
// upper case.
struct LaterCase {
    char32_t first;
    char32_t last;
    std::int32_t to_lower;
    std::uint32_t stride;
};
constexpr LaterCase kLowerLater[] = {
    {0x1C89, 0x1C89, 1, 1},      {0xA7CB, 0xA7CB, 0x264 - 0xA7CB, 1},
    {0xA7CC, 0xA7CE, 1, 2},      {0xA7D2, 0xA7D4, 1, 2},
    {0xA7DA, 0xA7DA, 1, 1},      {0xA7DC, 0xA7DC, 0x19B - 0xA7DC, 1},
    {0x10D50, 0x10D65, 0x20, 1}, {0x16EA0, 0x16EB8, 0x1B, 1},
};

char32_t lower_case(char32_t value) {
    for (const LaterCase& row : kLowerLater) {
        if (value < row.first || value > row.last || (value - row.first) % row.stride != 0) continue;
        return static_cast<char32_t>(static_cast<std::int32_t>(value) + row.to_lower);
    }
    return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(value)));
}

}  // namespace

std::string to_normal_form(std::string_view text, NormalForm form) {
    if (is_ascii(text)) return std::string(text);
    const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
    std::vector<utf8proc_int32_t> points;
    points.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        const CodePoint point = code_point_at(text, at);
        at += point.length;
        append_decomposed(point.value, form, points);
    }
    order_marks(points);
    if (compose) compose_points(points);
    std::string out;
    out.reserve(text.size());
    for (const utf8proc_int32_t point : points) append_utf8(out, static_cast<char32_t>(point));
    return out;
}

namespace {

// A changed part may still be several: a letter and marks that only change among themselves.
void append_smallest(NormalPart part, std::string_view text, NormalForm form,
                     std::vector<NormalPart>& parts) {
    constexpr std::size_t kLongest = 64;  // bytes; looking at every place takes quadratic time
    const auto source = [&](std::size_t begin, std::size_t end) { return text.substr(begin, end - begin); };
    std::size_t at = part.end - part.begin <= kLongest ? part.begin : part.end;
    while (at < part.end && part.normal != source(part.begin, part.end)) {
        at += code_point_at(text, at).length;
        std::string left = to_normal_form(source(part.begin, at), form);
        std::string right = to_normal_form(source(at, part.end), form);
        if (at == part.end || left + right != part.normal) continue;
        parts.push_back({part.begin, at, std::move(left)});
        part = {at, part.end, std::move(right)};
    }
    parts.push_back(std::move(part));
}

}  // namespace

std::vector<NormalPart> normal_parts(std::string_view text, NormalForm form) {
    std::vector<NormalPart> parts;
    // The end of what belongs to the character at `begin` whatever comes after it: its marks.
    const auto end_of_character = [&](std::size_t begin) {
        std::vector<utf8proc_int32_t> points;
        std::size_t at = begin;
        while (at < text.size()) {
            const CodePoint point = code_point_at(text, at);
            points.clear();
            append_decomposed(point.value, form, points);
            if (at > begin && (points.empty() || combining_class(points.front()) == 0)) break;
            at += point.length;
        }
        return at;
    };
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = end_of_character(at);
        std::string normal = to_normal_form(text.substr(at, end - at), form);
        // It may still become one with what is before it: jamo, some vowel signs.
        const bool joins = !parts.empty() && static_cast<unsigned char>(text[at]) >= 0x80 &&
                           to_normal_form(text.substr(parts.back().begin, end - parts.back().begin), form) !=
                               parts.back().normal + normal;
        if (joins) {
            parts.back().end = end;
            parts.back().normal =
                to_normal_form(text.substr(parts.back().begin, end - parts.back().begin), form);
        } else {
            parts.push_back({at, end, std::move(normal)});
        }
        at = end;
    }
    std::vector<NormalPart> smallest;
    for (NormalPart& part : parts) append_smallest(std::move(part), text, form, smallest);
    return smallest;
}

std::string to_lower_case(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        const CodePoint point = code_point_at(text, at);
        at += point.length;
        if (point.value == 0x130) {  // the only letter whose lower case is two code points
            out += "i\xCC\x87";
        } else {
            append_utf8(out, lower_case(point.value));
        }
    }
    return out;
}

}  // namespace qlora::tokenizer
