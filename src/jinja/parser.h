#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "qlora/jinja/template.h"
#include "syntax_tree.h"

namespace qlora::jinja {

/// Parses a whole template. Throws SyntaxError.
std::shared_ptr<const Program> parse_program(std::string_view source, const std::string& name,
                                             const Limits& limits);

}  // namespace qlora::jinja
