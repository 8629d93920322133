#pragma once

#include <string>
#include <string_view>

namespace qlora::data {

/// A text as a string literal of Jinja, 'a\nb'.
std::string jinja_quoted(std::string_view text);

}  // namespace qlora::data
