#pragma once

#include "runtime.h"

namespace qlora::jinja {

// jinja2's filters that give a text or a number; the names and orders of their arguments are jinja2's.
Value absolute_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value capitalize_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value default_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value float_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value indent_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value int_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value join_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value lower_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value replace_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
/// Makes Markup: text that is joined to it later is escaped.
Value safe_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value string_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value title_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
/// transformers' own: json.dumps without escapes for HTML.
Value tojson_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value trim_filter(Runtime& runtime, const Value& value, const Arguments& arguments);
Value upper_filter(Runtime& runtime, const Value& value, const Arguments& arguments);

}  // namespace qlora::jinja
