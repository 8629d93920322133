#pragma once

#include <string>
#include <string_view>

namespace qlora::jinja {

/// `name:line: message`, the form of every error of a template.
std::string at_line(const std::string& name, int line, const std::string& message);

/// At most `limit` bytes of a foreign text for an error message: line breaks, control characters and what a
/// terminal could take for a command are written as escapes.
std::string visible(std::string_view text, std::size_t limit = 300);

/// A name of the template in quotes, made visible.
std::string in_quotes(std::string_view name);

}  // namespace qlora::jinja
