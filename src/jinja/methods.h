#pragma once

#include <string_view>

#include "runtime.h"

namespace qlora::jinja {

/// The table's own spelling of a method that the value has and that can be called, or nothing.
std::string_view find_method(const Value& value, std::string_view name);
/// A method that changes a list or dict: the sandbox makes it undefined.
bool is_mutating_method(const Value& value, std::string_view name);
/// Something that Python's type has and this interpreter has not.
bool is_unsupported_attribute(const Value& value, std::string_view name);

Value call_method(Runtime& runtime, const Method& method, const Arguments& arguments);

}  // namespace qlora::jinja
