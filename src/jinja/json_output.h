#pragma once

#include <optional>
#include <string>

#include "runtime.h"

namespace qlora::jinja {

struct JsonStyle {
    bool ensure_ascii = false;
    bool sort_keys = false;
    std::optional<std::string> indent;  // of one level; none: all on one line
    TextPtr item_separator;             // null: ", ", or "," with an indent
    TextPtr key_separator;              // null: ": "
};

/// Python's json.dumps, where each character of a string or number keeps its mark. Fails for undefined
/// values, iterators and what else JSON has no form for.
TextPtr json_text(Runtime& runtime, const Value& value, const JsonStyle& style);

}  // namespace qlora::jinja
