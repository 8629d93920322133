#pragma once

#include <string_view>

namespace qlora::data {

/// `text` without white space at both ends, as Python's str.strip() understands it (Unicode's white space and
/// the separators 0x1C to 0x1F). `text` must be UTF-8.
std::string_view strip(std::string_view text);

}  // namespace qlora::data
