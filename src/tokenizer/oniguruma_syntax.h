#pragma once

#include <string>

namespace qlora::tokenizer {

/// The PCRE2 pattern (for UTF, UCP, MULTILINE, newline LF) that matches exactly what `pattern` matches in
/// Oniguruma with Ruby's syntax. Throws std::invalid_argument that names the construct when there is no
/// certain translation.
std::string translate_oniguruma(const std::string& pattern);

}  // namespace qlora::tokenizer
