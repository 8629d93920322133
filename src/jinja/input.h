#pragma once

#include "runtime.h"

namespace qlora::jinja {

/// The variables of a rendering under their names, with the origins of all that they hold noted in the
/// runtime. See Template::render for what is changed of them.
std::vector<std::pair<std::string, Value>> input_variables(Runtime& runtime, const Json& variables);

}  // namespace qlora::jinja
