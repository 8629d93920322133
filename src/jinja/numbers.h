#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace qlora::jinja {

/// The shortest decimal that reads back as the same number, in Python's form: 1.0, 1e+16, 1e-05, inf, nan.
std::string float_text(double value);

/// The number that all of the text means ("1.5", "-2e10", "inf", "nan"); infinite or zero beyond the range of
/// floats.
std::optional<double> parse_float(std::string_view text);

}  // namespace qlora::jinja
