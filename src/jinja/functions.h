#pragma once

#include <optional>
#include <string_view>

#include "runtime.h"

namespace qlora::jinja {

/// The global function of this name.
std::optional<Function> find_function(std::string_view name);
Value call_function(Runtime& runtime, Function function, const Arguments& arguments);

/// Writes a time as Python's strftime does in English. Fails for a code that it does not know.
std::string format_time(Runtime& runtime, const LocalTime& time, std::string_view format);

}  // namespace qlora::jinja
