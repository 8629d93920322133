#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace qlora::tokenizer {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

/// Unicode normalisation of valid UTF-8, O(n log n) even when all of it is combining marks.
std::string to_normal_form(std::string_view text, NormalForm form);

/// Bytes [begin, end) of a text and their normal form.
struct NormalPart {
    std::size_t begin;
    std::size_t end;
    std::string normal;
};
/// The text in the smallest parts whose normal forms, put together, are that of the whole.
std::vector<NormalPart> normal_parts(std::string_view text, NormalForm form);

/// Each code point's lower case by itself (no final sigma), as Rust's char::to_lowercase.
std::string to_lower_case(std::string_view text);

}  // namespace qlora::tokenizer
