#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "qlora/core/white_space.h"

namespace qlora::tokenizer {

struct CodePoint {
    char32_t value;
    std::size_t length;  // bytes in UTF-8
};

/// The code point that starts at `offset`; `text` must be valid UTF-8.
CodePoint code_point_at(std::string_view text, std::size_t offset);
/// The code point that ends just before `offset` (> 0).
CodePoint code_point_before(std::string_view text, std::size_t offset);
bool is_one_character(std::string_view text);
void append_utf8(std::string& out, char32_t value);

/// General category N (decimal digits, letter numbers and the rest).
bool is_numeric(char32_t value);
/// `\w` of Rust's regex crate: Alphabetic, marks, decimal digits, connectors, joiners.
bool is_word(char32_t value);

}  // namespace qlora::tokenizer
