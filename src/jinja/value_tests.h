#pragma once

#include <string_view>

#include "runtime.h"

namespace qlora::jinja {

/// The tests of `value is name`.
bool is_test(std::string_view name);
/// Fails for a name that is no test.
bool run_test(Runtime& runtime, std::string_view name, const Value& value, const Arguments& arguments);

}  // namespace qlora::jinja
