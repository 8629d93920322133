#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace qlora::ops {

/// Query rows of one sequence and the keys that they see, some of them at least.
struct QueryBlock {
    std::int64_t first_row, rows;
    std::int64_t first_key, keys;
};

/// The blocks of the last n of m positions, `at_once` rows each. A window of 0 reaches back to the first key.
inline std::vector<QueryBlock> query_blocks(std::int64_t n, std::int64_t m, std::int64_t window,
                                            std::int64_t at_once) {
    std::vector<QueryBlock> out;
    for (std::int64_t row = 0; row < n; row += at_once) {
        const std::int64_t rows = std::min(at_once, n - row), position = m - n + row;
        const std::int64_t first = window > 0 ? std::max<std::int64_t>(0, position + 1 - window) : 0;
        out.push_back({.first_row = row, .rows = rows, .first_key = first, .keys = position + rows - first});
    }
    return out;
}

}  // namespace qlora::ops
