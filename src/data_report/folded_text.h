#pragma once

#include <string>
#include <string_view>

namespace qlora::data_report {

/// The code points of `text` (UTF-8) in lower case, runs of white space as one blank and none at the ends,
/// curly apostrophes as straight ones: the form in which texts are compared and phrases are sought.
std::u32string fold(std::string_view text);

/// Letters, marks, digits.
bool is_word_character(char32_t code);
/// As these, or a symbol (a sign of mathematics, a currency, an emoji).
bool says_something(char32_t code);

}  // namespace qlora::data_report
