#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qlora::io {

/// "[3, 4]", as messages and Python's JSON show a shape.
std::string shape_text(const std::vector<std::int64_t>& shape);

}  // namespace qlora::io
