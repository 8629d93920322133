#include "white_space.h"

#include <cstddef>
#include <cstdint>

namespace qlora::data {
namespace {

bool is_white_space(std::uint32_t code) {
    if (code <= 0x20) return (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x20);
    if (code >= 0x2000 && code <= 0x200A) return true;
    switch (code) {
        case 0x85:
        case 0xA0:
        case 0x1680:
        case 0x2028:
        case 0x2029:
        case 0x202F:
        case 0x205F:
        case 0x3000:
            return true;
        default:
            return false;
    }
}

bool is_continuation(char c) {
    return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}

// The code point of one whole UTF-8 sequence; every white space has at most three bytes.
std::uint32_t code_of(std::string_view bytes) {
    const auto byte = [&](std::size_t i) {
        return static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[i]));
    };
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
        if (!is_white_space(code_of(text.substr(0, size)))) break;
        text.remove_prefix(size);
    }
    while (!text.empty()) {
        std::size_t begin = text.size() - 1;
        while (begin > 0 && is_continuation(text[begin])) --begin;
        if (!is_white_space(code_of(text.substr(begin)))) break;
        text.remove_suffix(text.size() - begin);
    }
    return text;
}

}  // namespace qlora::data
