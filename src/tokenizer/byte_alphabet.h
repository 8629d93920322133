#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace qlora::tokenizer {

/// GPT-2's alphabet: one printable code point for each byte, so that a vocabulary of bytes can be written as
/// text.
const std::array<std::string, 256>& byte_letters();

/// The bytes that `letters` (valid UTF-8) stands for; nothing when one of them is not in the alphabet.
std::optional<std::string> bytes_of_letters(std::string_view letters);

}  // namespace qlora::tokenizer
