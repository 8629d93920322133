#pragma once

#include <string>
#include <utility>
#include <vector>

#include "runtime.h"

namespace qlora::jinja {

/// Under their names; of two with the same name the first counts.
using Variables = std::vector<std::pair<std::string, Value>>;

/// The variables of an object, with the origins of all that they hold noted in the runtime. See
/// Template::render for what is changed of them.
Variables input_variables(Runtime& runtime, const Json& variables);
/// Messages that stand beside the variables.
std::vector<Value> input_messages(Runtime& runtime, const std::vector<const Json*>& messages);

}  // namespace qlora::jinja
