#pragma once

#include <string>
#include <string_view>

namespace qlora::eval {

/// NFKC, trimmed, inner white space collapsed to one blank, lower case: the form in which answers are
/// compared.
std::string normalize_answer(std::string_view text);

inline bool exact_match(std::string_view generated, std::string_view expected) {
    return normalize_answer(generated) == normalize_answer(expected);
}

}  // namespace qlora::eval
