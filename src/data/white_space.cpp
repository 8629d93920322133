#include "white_space.h"

#include <cstddef>

#include "qlora/core/white_space.h"

namespace qlora::data {
namespace {

// Python's str.isspace takes the separators 0x1C to 0x1F besides, Unicode's property does not.
bool is_python_space(char32_t code) {
    return is_white_space(code) || (code >= 0x1C && code <= 0x1F);
}

bool is_continuation(char c) {
    return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}

// The code point of one whole UTF-8 sequence; every white space has at most three bytes.
char32_t code_of(std::string_view bytes) {
    const auto byte = [&](std::size_t i) { return char32_t{static_cast<unsigned char>(bytes[i])}; };
    if (bytes.size() == 1) return byte(0);
    if (bytes.size() == 2) return (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
    if (bytes.size() == 3) return (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    return 0xFFFD;
}

}  // namespace

std::string_view strip(std::string_view text) {
    while (!text.empty()) {
        std::size_t size = 1;
        while (size < text.size() && is_continuation(text[size])) ++size;
        if (!is_python_space(code_of(text.substr(0, size)))) break;
        text.remove_prefix(size);
    }
    while (!text.empty()) {
        std::size_t begin = text.size() - 1;
        while (begin > 0 && is_continuation(text[begin])) --begin;
        if (!is_python_space(code_of(text.substr(begin)))) break;
        text.remove_suffix(text.size() - begin);
    }
    return text;
}

}  // namespace qlora::data
