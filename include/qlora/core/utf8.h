#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace qlora {

/// May begin a text file and is no part of its text.
inline constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

/// Offset of the first byte that is not valid UTF-8 (surrogates and overlong forms are not), or npos.
std::size_t find_invalid_utf8(std::string_view text);
/// Each maximal part of an ill-formed sequence becomes one U+FFFD, the practice of the Unicode standard.
std::string replace_invalid_utf8(std::string_view bytes);

}  // namespace qlora
