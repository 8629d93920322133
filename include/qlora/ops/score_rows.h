#pragma once

#include <algorithm>
#include <cstdint>

namespace qlora::ops {

/// Rows of queries whose scores of so many keys exist at once, of all heads, where LibTorch's operations make
/// them: about 2^20 scores, but some rows at least, so that products are worth their start.
constexpr std::int64_t score_rows(std::int64_t heads, std::int64_t keys) {
    return std::max<std::int64_t>(256, (std::int64_t{1} << 20) / std::max<std::int64_t>(1, heads * keys));
}

}  // namespace qlora::ops
