#include "case_mapping.h"

#include <utf8proc.h>

#include <cstdio>

#include "qlora/core/code_points.h"

namespace qlora::jinja {
namespace {

enum class Case { kUpper, kLower, kTitle };

// Those that the Unicode standard lists in SpecialCasing.txt with several characters, or with a condition.
bool has_special_mapping(char32_t code, Case wanted) {
    if (wanted == Case::kLower) return code == 0x130 || code == 0x3A3;
    return code == 0x149 || code == 0x1F0 || code == 0x390 || code == 0x3B0 || code == 0x587 ||
           (code >= 0x1E96 && code <= 0x1E9A) || (code >= 0x1F50 && code <= 0x1F56 && code % 2 == 0) ||
           (code >= 0x1F80 && code <= 0x1FFC && code != 0x1FBE) || (code >= 0xFB00 && code <= 0xFB17);
}

// Cased by properties that are no letter's category: modifiers, Roman numerals, circled letters.
bool may_be_cased_otherwise(utf8proc_category_t category) {
    return category == UTF8PROC_CATEGORY_LM || category == UTF8PROC_CATEGORY_NL ||
           category == UTF8PROC_CATEGORY_SO || category == UTF8PROC_CATEGORY_MN;
}

[[noreturn]] void refuse_character(Runtime& runtime, char32_t code) {
    char name[16];
    std::snprintf(name, sizeof name, "U+%04X", static_cast<unsigned>(code));
    runtime.fail(std::string("the upper or lower case of the character ") + name + " is not supported");
}

// One code point of a text, written in another case.
class Mapper {
  public:
    Mapper(Runtime& runtime, const Text& text) : runtime_(runtime), text_(text), out_(runtime.budget) {
        runtime.budget.step(static_cast<std::int64_t>(text.bytes.size() / 2));
    }

    void put(std::size_t offset, Case wanted) {
        const char32_t code = decode_utf8(text_.bytes, offset);
        std::string mapped;
        if (code < 0x80) {
            const bool is_letter =
                wanted == Case::kLower ? code >= 'A' && code <= 'Z' : code >= 'a' && code <= 'z';
            mapped += static_cast<char>(is_letter ? code ^ 0x20 : code);
        } else if (code == 0xDF && wanted != Case::kLower) {
            mapped = wanted == Case::kUpper ? "SS" : "Ss";
        } else {
            if (has_special_mapping(code, wanted)) refuse_character(runtime_, code);
            const auto value = static_cast<utf8proc_int32_t>(code);
            encode_utf8(mapped, static_cast<char32_t>(wanted == Case::kUpper   ? utf8proc_toupper(value)
                                                      : wanted == Case::kLower ? utf8proc_tolower(value)
                                                                               : utf8proc_totitle(value)));
        }
        out_.append_for(text_, offset, mapped);
    }

    TextPtr finish(bool is_markup = false) { return out_.finish(is_markup); }

  private:
    Runtime& runtime_;
    const Text& text_;
    TextBuilder out_;
};

TextPtr map_all(Runtime& runtime, const Text& text, Case first, Case others) {
    Mapper mapper(runtime, text);
    for (std::size_t i = 0; i < text.bytes.size(); i += utf8_length(text.bytes[i]))
        mapper.put(i, i == 0 ? first : others);
    return mapper.finish(text.is_markup);
}

bool is_cased(Runtime& runtime, char32_t code) {
    if (code < 0x80) return (code >= 'A' && code <= 'Z') || (code >= 'a' && code <= 'z');
    if (code == 0xAA || code == 0xBA) return true;
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
    if (may_be_cased_otherwise(category) && code < 0x3000) refuse_character(runtime, code);
    return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
           category == UTF8PROC_CATEGORY_LT;
}

bool begins_words(char32_t code) {
    return is_python_space(code) || code == '-' || code == '(' || code == '{' || code == '[' || code == '<';
}

}  // namespace

TextPtr upper(Runtime& runtime, const Text& text) {
    return map_all(runtime, text, Case::kUpper, Case::kUpper);
}

TextPtr lower(Runtime& runtime, const Text& text) {
    return map_all(runtime, text, Case::kLower, Case::kLower);
}

TextPtr capitalize(Runtime& runtime, const Text& text) {
    return map_all(runtime, text, Case::kTitle, Case::kLower);
}

TextPtr title(Runtime& runtime, const Text& text) {
    Mapper mapper(runtime, text);
    bool is_inside = false;
    for (std::size_t i = 0; i < text.bytes.size(); i += utf8_length(text.bytes[i])) {
        mapper.put(i, is_inside ? Case::kLower : Case::kTitle);
        is_inside = is_cased(runtime, decode_utf8(text.bytes, i));
    }
    return mapper.finish(text.is_markup);
}

TextPtr title_words(Runtime& runtime, const Text& text) {
    Mapper mapper(runtime, text);
    bool is_first = true;
    for (std::size_t i = 0; i < text.bytes.size(); i += utf8_length(text.bytes[i])) {
        const bool is_break = begins_words(decode_utf8(text.bytes, i));
        mapper.put(i, is_first && !is_break ? Case::kUpper : Case::kLower);
        is_first = is_break;
    }
    return mapper.finish();
}

}  // namespace qlora::jinja
