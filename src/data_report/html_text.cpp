#include "html_text.h"

#include <spdlog/fmt/fmt.h>
#include <utf8proc.h>

#include "qlora/core/code_points.h"
#include "qlora/core/utf8.h"

namespace qlora::data_report {
namespace {

bool is_unseen(char32_t code) {
    if (code == '\n' || code == '\t') return false;
    if (code == 0x200C || code == 0x200D) return false;  // joiners are part of words and emoji
    switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
        case UTF8PROC_CATEGORY_CC:
        case UTF8PROC_CATEGORY_CF:
        case UTF8PROC_CATEGORY_CN:
        case UTF8PROC_CATEGORY_CO:
        case UTF8PROC_CATEGORY_ZL:
        case UTF8PROC_CATEGORY_ZP:
            return true;
        default:
            return false;
    }
}

void append_html(std::string& out, std::string_view character) {
    const char32_t code = decode_utf8(character, 0);
    switch (code) {
        case '&':
            out += "&amp;";
            return;
        case '<':
            out += "&lt;";
            return;
        case '>':
            out += "&gt;";
            return;
        case '"':
            out += "&quot;";
            return;
        case '\'':
            out += "&#39;";
            return;
        default:
            break;
    }
    if (is_unseen(code)) {
        out += fmt::format("[U+{:04X}]", static_cast<std::uint32_t>(code));
    } else {
        out += character;
    }
}

}  // namespace

std::string html_beginning(std::string_view bytes, std::size_t characters) {
    const bool is_utf8 = find_invalid_utf8(bytes) == std::string_view::npos;
    const std::string mended = is_utf8 ? std::string() : replace_invalid_utf8(bytes);
    const std::string_view text = is_utf8 ? bytes : std::string_view(mended);
    std::string out;
    std::size_t begin = 0;
    for (; begin < text.size() && characters > 0; --characters) {
        const std::size_t length = utf8_length(text[begin]);
        append_html(out, text.substr(begin, length));
        begin += length;
    }
    std::size_t more = 0;
    for (; begin < text.size(); begin += utf8_length(text[begin])) ++more;
    if (more > 0) out += fmt::format("<i> ... {} more characters</i>", more);
    return out;
}

std::string html_text(std::string_view text) {
    return html_beginning(text, text.size());
}

}  // namespace qlora::data_report
