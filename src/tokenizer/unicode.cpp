#include "unicode.h"

#include <utf8proc.h>

#include "newer_unicode.h"
#include "regex.h"

namespace qlora::tokenizer {
namespace {

unsigned char byte_at(std::string_view text, std::size_t offset) {
    return static_cast<unsigned char>(text[offset]);
}

}  // namespace

CodePoint code_point_at(std::string_view text, std::size_t offset) {
    const char32_t lead = byte_at(text, offset);
    if (lead < 0x80) return {lead, 1};
    const auto low6 = [&](std::size_t i) { return char32_t{byte_at(text, offset + i)} & 0x3F; };
    if (lead < 0xE0) return {(lead & 0x1F) << 6 | low6(1), 2};
    if (lead < 0xF0) return {(lead & 0x0F) << 12 | low6(1) << 6 | low6(2), 3};
    return {(lead & 0x07) << 18 | low6(1) << 12 | low6(2) << 6 | low6(3), 4};
}

CodePoint code_point_before(std::string_view text, std::size_t offset) {
    do {
        --offset;
    } while (offset > 0 && (byte_at(text, offset) & 0xC0) == 0x80);
    return code_point_at(text, offset);
}

bool is_one_character(std::string_view text) {
    return !text.empty() && code_point_at(text, 0).length == text.size();
}

void append_utf8(std::string& out, char32_t value) {
    const auto put = [&](char32_t bits) { out += static_cast<char>(bits); };
    if (value < 0x80) {
        put(value);
    } else if (value < 0x800) {
        put(0xC0 | value >> 6);
        put(0x80 | (value & 0x3F));
    } else if (value < 0x10000) {
        put(0xE0 | value >> 12);
        put(0x80 | (value >> 6 & 0x3F));
        put(0x80 | (value & 0x3F));
    } else {
        put(0xF0 | value >> 18);
        put(0x80 | (value >> 12 & 0x3F));
        put(0x80 | (value >> 6 & 0x3F));
        put(0x80 | (value & 0x3F));
    }
}

bool is_numeric(char32_t value) {
    if (value < 0x80) return value >= '0' && value <= '9';
    if (const char newer = newer_category(value)) return newer == 'N';
    return utf8proc_category_string(static_cast<utf8proc_int32_t>(value))[0] == 'N';
}

bool is_word(char32_t value) {
    if (value < 0x80) {
        return (value >= '0' && value <= '9') || (value >= 'a' && value <= 'z') ||
               (value >= 'A' && value <= 'Z') || value == '_';
    }
    if (value == 0x200C || value == 0x200D) return true;
    static const Regex kWord = Regex::from_oniguruma("[\\w]");
    std::string text;
    append_utf8(text, value);
    return kWord.find(text, 0).has_value();
}

}  // namespace qlora::tokenizer
