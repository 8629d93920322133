#include "qlora/eval/exact_match.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "qlora/core/white_space.h"

namespace qlora::eval {

std::string normalize_answer(std::string_view text) {
    utf8proc_uint8_t* raw = nullptr;
    const utf8proc_ssize_t length = utf8proc_map(
        reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
        &raw, static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_COMPAT | UTF8PROC_STABLE));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(raw, &std::free);
    if (length < 0)
        return std::string(text);  // a generation cut inside a character is not UTF-8: it matches nothing

    std::string out;
    bool gap = false;
    for (utf8proc_ssize_t at = 0; at < length;) {
        utf8proc_int32_t code = 0;
        at += utf8proc_iterate(raw + at, length - at, &code);
        if (is_white_space(static_cast<char32_t>(code))) {
            gap = !out.empty();
            continue;
        }
        if (gap) out.push_back(' ');
        gap = false;
        utf8proc_uint8_t bytes[4];
        const utf8proc_ssize_t count = utf8proc_encode_char(utf8proc_tolower(code), bytes);
        out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(count));
    }
    return out;
}

}  // namespace qlora::eval
