#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "qlora/core/white_space.h"

namespace qlora {

/// Bytes of the UTF-8 sequence that begins with `lead`.
constexpr std::size_t utf8_length(char lead) {
    const auto byte = static_cast<unsigned char>(lead);
    return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

constexpr bool is_utf8_continuation(char c) {
    return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}

/// The code point that begins at `text[offset]`; `text` must be UTF-8.
constexpr char32_t decode_utf8(std::string_view text, std::size_t offset) {
    const auto byte = [&](std::size_t i) { return char32_t{static_cast<unsigned char>(text[offset + i])}; };
    const auto low6 = [&](std::size_t i) { return byte(i) & 0x3F; };
    switch (utf8_length(text[offset])) {
        case 1:
            return byte(0);
        case 2:
            return (byte(0) & 0x1F) << 6 | low6(1);
        case 3:
            return (byte(0) & 0x0F) << 12 | low6(1) << 6 | low6(2);
        default:
            return (byte(0) & 0x07) << 18 | low6(1) << 12 | low6(2) << 6 | low6(3);
    }
}

inline void encode_utf8(std::string& out, char32_t code) {
    const auto put = [&](char32_t bits) { out += static_cast<char>(bits); };
    if (code < 0x80) return put(code);
    if (code < 0x800) {
        put(0xC0 | code >> 6);
    } else {
        if (code < 0x10000) {
            put(0xE0 | code >> 12);
        } else {
            put(0xF0 | code >> 18);
            put(0x80 | (code >> 12 & 0x3F));
        }
        put(0x80 | (code >> 6 & 0x3F));
    }
    put(0x80 | (code & 0x3F));
}

/// What Python's str.isspace accepts: Unicode's white space, and the separators 0x1C to 0x1F.
constexpr bool is_python_space(char32_t code) {
    return is_white_space(code) || (code >= 0x1C && code <= 0x1F);
}

}  // namespace qlora
