#pragma once

#include "value.h"

namespace qlora::jinja {

/// Python's ==.
bool equal(Budget& budget, const Value& a, const Value& b);
/// Python's <; fails for values that have no order.
bool less(Budget& budget, const Value& a, const Value& b);
/// Fails for values that cannot be a dict's key.
void check_hashable(Budget& budget, const Value& value);

}  // namespace qlora::jinja
