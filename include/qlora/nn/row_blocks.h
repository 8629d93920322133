#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

namespace qlora::nn {

/// Calls f(first row, rows) on all threads for blocks of a matrix' rows that stay in a core's second cache.
/// The blocks depend on the sizes alone.
template <class F>
void for_each_row_block(std::int64_t rows, std::int64_t columns, F&& f) {
    constexpr std::int64_t kElements = 1 << 16, kLeastRows = 16;
    const std::int64_t size = std::max(kLeastRows, kElements / std::max<std::int64_t>(1, columns));
    // Blocks of equal size, not a small last one: products of very few rows use another loop.
    const std::int64_t count = (rows + size - 1) / size;
    at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t block = begin; block < end; ++block) {
            const std::int64_t first = rows * block / count, next = rows * (block + 1) / count;
            f(first, next - first);
        }
    });
}

}  // namespace qlora::nn
