#include "unicode.h"

#include <utf8proc.h>

#include "newer_unicode.h"
#include "qlora/core/code_points.h"
#include "regex.h"

namespace qlora::tokenizer {

CodePoint code_point_at(std::string_view text, std::size_t offset) {
    return {decode_utf8(text, offset), utf8_length(text[offset])};
}

CodePoint code_point_before(std::string_view text, std::size_t offset) {
    do {
        --offset;
    } while (offset > 0 && is_utf8_continuation(text[offset]));
    return code_point_at(text, offset);
}

bool is_one_character(std::string_view text) {
    return !text.empty() && code_point_at(text, 0).length == text.size();
}

void append_utf8(std::string& out, char32_t value) {
    encode_utf8(out, value);
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
