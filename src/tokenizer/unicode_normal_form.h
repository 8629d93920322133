#pragma once

#include <string>
#include <string_view>

namespace qlora::tokenizer {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

/// Unicode normalisation of valid UTF-8, O(n log n) even when all of it is combining marks.
std::string to_normal_form(std::string_view text, NormalForm form);

/// Each code point's lower case by itself (no final sigma), as Rust's char::to_lowercase.
std::string to_lower_case(std::string_view text);

}  // namespace qlora::tokenizer
