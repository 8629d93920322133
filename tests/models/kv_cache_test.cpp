#include "qlora/models/kv_cache.h"

#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace qlora::models {
namespace {

/// Rows [n, 2, 4] that hold their positions.
at::Tensor rows(std::int64_t first, std::int64_t n) {
    return at::arange(first, first + n, at::kFloat).view({n, 1, 1}).expand({n, 2, 4});
}

TEST(KvCache, without_a_window_all_rows_stay) {
    KvCache cache(2);
    for (const std::int64_t n : {7, 1, 1, 4000, 1, 1}) {
        for (const std::int64_t layer : {0, 1}) {
            const auto [keys, values] =
                cache.append(layer, rows(cache.length(), n), -rows(cache.length(), n), 0);
            EXPECT_TRUE(keys.equal(rows(0, cache.length() + n)));
            EXPECT_TRUE(values.equal(-rows(0, cache.length() + n)));
        }
        cache.advance(n);
        for (const std::int64_t layer : {0, 1}) {
            EXPECT_TRUE(cache.held(layer).keys.equal(rows(0, cache.length())));
            EXPECT_TRUE(cache.held(layer).values.equal(-rows(0, cache.length())));
        }
    }
}

TEST(KvCache, a_window_drops_what_no_new_row_sees) {
    constexpr std::int64_t kWindow = 100, kBlock = 1536, kFloats = 2 * 2 * 4;
    KvCache cache(1);
    std::int64_t most = 0;
    for (int step = 0; step < 4000; ++step) {
        const std::int64_t n = step == 0 ? 5000 : 1;
        const auto [keys, values] =
            cache.append(0, rows(cache.length(), n), -rows(cache.length(), n), kWindow);
        const std::int64_t end = cache.length() + n, first = end - keys.size(0);
        ASSERT_LE(first, std::max<std::int64_t>(0, cache.length() + 1 - kWindow))
            << "the first new row sees it";
        ASSERT_EQ(first % kBlock, 0);
        ASSERT_TRUE(keys.equal(rows(first, end - first)) && values.equal(-rows(first, end - first)));
        cache.advance(n);
        if (step > 0) most = std::max(most, keys.size(0));
    }
    EXPECT_LE(most, kWindow + kBlock);
    // Buffers at most double as they grow.
    EXPECT_LE(cache.bytes(), 2 * (kWindow + kBlock) * kFloats * static_cast<std::int64_t>(sizeof(float)));
}

}  // namespace
}  // namespace qlora::models
