#pragma once

#include <string>
#include <string_view>

namespace qlora::tokenizer {

/// First letter of the general category of a code point that Unicode 15.0 to 16.0 assigned; 0 for any other.
/// Debian's PCRE2 knows Unicode 14, Hugging Face tokenizers 16: without these, new letters would count as
/// symbols.
char newer_category(char32_t value);

/// Those code points as ranges for a PCRE2 character class; `category` is one letter or two ("L", "Lu").
std::string newer_ranges(std::string_view category);

}  // namespace qlora::tokenizer
