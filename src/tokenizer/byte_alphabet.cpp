#include "byte_alphabet.h"

#include <array>

#include "unicode.h"

namespace qlora::tokenizer {
namespace {

struct Alphabet {
    std::array<std::string, 256> letter;
    std::array<int, 512> byte{};  // -1: not a letter

    // Printable Latin-1 bytes stand for themselves; the 68 others follow from U+0100 on.
    Alphabet() {
        byte.fill(-1);
        char32_t next = 0x100;
        for (int b = 0; b < 256; ++b) {
            const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
            const char32_t value = printable ? static_cast<char32_t>(b) : next++;
            append_utf8(letter[b], value);
            byte[value] = b;
        }
    }
};

const Alphabet& alphabet() {
    static const Alphabet kAlphabet;
    return kAlphabet;
}

}  // namespace

const std::array<std::string, 256>& byte_letters() {
    return alphabet().letter;
}

std::optional<std::string> bytes_of_letters(std::string_view letters) {
    const Alphabet& table = alphabet();
    std::string bytes;
    for (std::size_t at = 0; at < letters.size();) {
        const CodePoint point = code_point_at(letters, at);
        at += point.length;
        if (point.value >= table.byte.size() || table.byte[point.value] < 0) return std::nullopt;
        bytes += static_cast<char>(table.byte[point.value]);
    }
    return bytes;
}

}  // namespace qlora::tokenizer
