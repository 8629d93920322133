#include "folded_text.h"

#include <utf8proc.h>

#include "qlora/core/code_points.h"

namespace qlora::data_report {
namespace {

char32_t fold_one(char32_t code) {
    if (code < 0x80) return code >= 'A' && code <= 'Z' ? code + ('a' - 'A') : code;
    if (code == 0x2018 || code == 0x2019) return '\'';
    return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code)));
}

utf8proc_category_t category_of(char32_t code) {
    return utf8proc_category(static_cast<utf8proc_int32_t>(code));
}

}  // namespace

std::u32string fold(std::string_view text) {
    std::u32string out;
    out.reserve(text.size());
    bool blank = false;
    for (std::size_t i = 0; i < text.size(); i += utf8_length(text[i])) {
        const char32_t code = decode_utf8(text, i);
        if (is_white_space(code)) {
            blank = !out.empty();
            continue;
        }
        if (blank) out += U' ';
        blank = false;
        out += fold_one(code);
    }
    return out;
}

bool is_word_character(char32_t code) {
    if (code < 0x80) return (code >= '0' && code <= '9') || ((code | 0x20) >= 'a' && (code | 0x20) <= 'z');
    const utf8proc_category_t category = category_of(code);
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NO;
}

bool says_something(char32_t code) {
    if (is_word_character(code)) return true;
    const utf8proc_category_t category = category_of(code);
    return category >= UTF8PROC_CATEGORY_SM && category <= UTF8PROC_CATEGORY_SO;
}

}  // namespace qlora::data_report
