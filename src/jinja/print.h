#pragma once

#include "runtime.h"

namespace qlora::jinja {

/// Python's str(value), as {{ value }} writes it; undefined is nothing. Fails for values whose text would
/// hold an address.
void print(Runtime& runtime, TextBuilder& out, const Value& value);
/// Python's repr(value).
void print_repr(Runtime& runtime, TextBuilder& out, const Value& value);
/// str(value) as a text: a text, Markup or not, is itself.
TextPtr text_of(Runtime& runtime, const Value& value);

}  // namespace qlora::jinja
