#include "messages.h"

#include "python_escape.h"
#include "qlora/core/code_points.h"

namespace qlora::jinja {
namespace {

// Controls, and the marks that change the direction of writing.
bool is_hidden(char32_t code) {
    return code < 0x20 || (code >= 0x7F && code < 0xA0) || (code >= 0x200B && code <= 0x200F) ||
           (code >= 0x2028 && code <= 0x202E) || (code >= 0x2060 && code <= 0x206F) || code == 0xFEFF ||
           code >= 0xE0000;
}

}  // namespace

std::string at_line(const std::string& name, int line, const std::string& message) {
    return name + ":" + std::to_string(line) + ": " + message;
}

std::string visible(std::string_view text, std::size_t limit) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); i += utf8_length(text[i])) {
        const char32_t code = decode_utf8(text, i);
        const std::string piece =
            is_hidden(code) ? python_escape(code) : std::string(text.substr(i, utf8_length(text[i])));
        if (out.size() + piece.size() + 3 > limit) return out + "...";
        out += piece;
    }
    return out;
}

std::string in_quotes(std::string_view name) {
    return "'" + visible(name, 60) + "'";
}

}  // namespace qlora::jinja
