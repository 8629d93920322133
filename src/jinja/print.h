#pragma once

#include <string>
#include <string_view>

#include "runtime.h"

namespace qlora::jinja {

/// Python's str(value), as {{ value }} writes it; undefined is nothing. Fails for values whose text would
/// hold an address.
void print(Runtime& runtime, TextBuilder& out, const Value& value);
/// Python's repr(value).
void print_repr(Runtime& runtime, TextBuilder& out, const Value& value);
/// str(value) as a text: a text, Markup or not, is itself.
TextPtr text_of(Runtime& runtime, const Value& value);

/// The shortest decimal that reads back as the same number, in Python's form: 1.0, 1e+16, 1e-05, inf, nan.
std::string float_text(double value);

}  // namespace qlora::jinja
