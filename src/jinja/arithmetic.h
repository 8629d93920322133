#pragma once

#include "runtime.h"
#include "syntax_tree.h"

namespace qlora::jinja {

/// Python's binary + - * / // %. Integers beyond 64 bits are refused.
Value calculate(Runtime& runtime, ExpressionKind operation, const Value& a, const Value& b);
/// Python's unary - and +.
Value negate(Runtime& runtime, const Value& value);
Value plus(Runtime& runtime, const Value& value);
/// One comparison of a chain.
bool compare(Runtime& runtime, Comparison comparison, const Value& a, const Value& b);
/// Python's `item in container`.
bool contains(Runtime& runtime, const Value& container, const Value& item);

}  // namespace qlora::jinja
