#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace qlora::data_report {

/// `text` for the body of a page or a quoted attribute: nothing in it is markup, and what would not be seen,
/// or would reorder the text around it (control characters, directions, a BOM), stands as [U+202E]. Bytes
/// that are not UTF-8 become U+FFFD.
std::string html_text(std::string_view text);

/// The same of the first `characters`, and how many follow.
std::string html_beginning(std::string_view text, std::size_t characters);

}  // namespace qlora::data_report
