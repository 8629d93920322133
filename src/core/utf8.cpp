#include "qlora/core/utf8.h"

#include <cstdint>
#include <cstring>

namespace qlora {
namespace {

unsigned char byte_at(std::string_view text, std::size_t offset) {
    return static_cast<unsigned char>(text[offset]);
}

// Length of the well-formed sequence at `offset` if `valid`, else of its longest well-formed beginning (at
// least 1).
struct Sequence {
    std::size_t length;
    bool valid;
};

Sequence sequence_at(std::string_view text, std::size_t offset) {
    const unsigned char lead = byte_at(text, offset);
    if (lead < 0x80) return {1, true};
    std::size_t trailing = 0;
    unsigned char low = 0x80;  // allowed range of the second byte
    unsigned char high = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF) {
        trailing = 1;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        trailing = 2;
        if (lead == 0xE0) low = 0xA0;
        if (lead == 0xED) high = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        trailing = 3;
        if (lead == 0xF0) low = 0x90;
        if (lead == 0xF4) high = 0x8F;
    } else {
        return {1, false};
    }
    for (std::size_t i = 1; i <= trailing; ++i) {
        if (offset + i >= text.size()) return {i, false};
        const unsigned char next = byte_at(text, offset + i);
        if (next < low || next > high) return {i, false};
        low = 0x80;
        high = 0xBF;
    }
    return {trailing + 1, true};
}

// Skips ASCII eight bytes at a time.
std::size_t skip_ascii(std::string_view text, std::size_t offset) {
    while (offset + 8 <= text.size()) {
        std::uint64_t word;
        std::memcpy(&word, text.data() + offset, sizeof word);
        if ((word & 0x8080808080808080u) != 0) break;
        offset += 8;
    }
    while (offset < text.size() && byte_at(text, offset) < 0x80) ++offset;
    return offset;
}

}  // namespace

std::size_t find_invalid_utf8(std::string_view text) {
    std::size_t offset = skip_ascii(text, 0);
    while (offset < text.size()) {
        const Sequence sequence = sequence_at(text, offset);
        if (!sequence.valid) return offset;
        offset += sequence.length;
        if (offset < text.size() && byte_at(text, offset) < 0x80) offset = skip_ascii(text, offset);
    }
    return std::string_view::npos;
}

std::string replace_invalid_utf8(std::string_view bytes) {
    std::string out;
    out.reserve(bytes.size());
    std::size_t offset = 0;
    while (offset < bytes.size()) {
        const Sequence sequence = sequence_at(bytes, offset);
        if (sequence.valid) {
            out.append(bytes, offset, sequence.length);
        } else {
            out += "\xEF\xBF\xBD";
        }
        offset += sequence.length;
    }
    return out;
}

}  // namespace qlora
