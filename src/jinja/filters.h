#pragma once

#include <string_view>

#include "runtime.h"

namespace qlora::jinja {

bool is_filter(std::string_view name);
/// `value | name(arguments)`. Fails for a name that is no filter.
Value run_filter(Runtime& runtime, std::string_view name, const Value& value, const Arguments& arguments);

}  // namespace qlora::jinja
