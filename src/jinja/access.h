#pragma once

#include <optional>
#include <string>

#include "runtime.h"

namespace qlora::jinja {

/// jinja2's value.name: a method or an attribute, else an item of a dict, else undefined. `name` must outlive
/// the result.
Value get_attribute(Runtime& runtime, const Value& value, const std::string& name);
/// jinja2's value[key]: an item, else a method or an attribute, else undefined.
Value get_item(Runtime& runtime, const Value& value, const Value& key);
/// value[start:stop:step]; a part that is not given is none.
Value get_slice(Runtime& runtime, const Value& value, const Value& start, const Value& stop,
                const Value& step);
/// What the attribute= of a filter names: "a", "a.b", "0.name", or an integer. Where a step gives undefined,
/// `otherwise` stands in for it unless that is none.
Value get_path(Runtime& runtime, const Value& value, const Value& path,
               const Value& otherwise = Value::none());

}  // namespace qlora::jinja
