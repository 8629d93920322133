#pragma once

#include <string_view>

namespace qlora::models {

/// Why a `model_type` that people ask for is not built, to be said behind its name; empty for any other.
std::string_view why_refused(std::string_view model_type);

}  // namespace qlora::models
