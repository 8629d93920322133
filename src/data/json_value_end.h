#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace qlora::data {

/// JSON's white space.
inline constexpr std::string_view kJsonBlanks = " \t\r\n";

/// Follows brackets and strings to the end of one JSON value, through as many pieces of text as it takes. A
/// value without brackets ends before a comma, a closing bracket or white space.
class JsonValueEnd {
  public:
    /// How many bytes of `piece` belong to the value; sets `complete` when its end was seen.
    std::size_t consume(std::string_view piece, bool& complete);

  private:
    std::int64_t depth_ = 0;
    bool in_string_ = false;
    bool escaped_ = false;
};

}  // namespace qlora::data
