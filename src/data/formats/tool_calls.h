#pragma once

#include <string>

#include "qlora/core/json.h"

namespace qlora::data::formats {

/// Calls as chat templates take them: a list of {"type": "function", "function": {"name", "arguments"}} and
/// what else a call holds (its `id`). `calls`: such a list or one call, each perhaps without the frame around
/// name and arguments; arguments that are JSON text become the object that they spell, as servers give it to
/// templates. DataError that names `where`.
Json normal_tool_calls(const Json& calls, const std::string& where);

/// Tools as chat templates take them, from a list of them with or without {"type": "function", "function":}
/// around name, description and parameters.
Json normal_tools(const Json& tools, const std::string& where);

}  // namespace qlora::data::formats
