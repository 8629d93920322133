#include "qlora/ops/cpu_arena.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>
#include <vector>

namespace qlora::ops {
namespace {

/// Tensors of many sizes, made and dropped in a random order; each is filled with its own number.
void churn(unsigned seed, int rounds) {
    std::mt19937 engine(seed);
    std::vector<std::pair<at::Tensor, float>> live;
    for (int round = 0; round < rounds; ++round) {
        if (live.size() > 40 || (!live.empty() && engine() % 3 == 0)) {
            const std::size_t victim = engine() % live.size();
            const auto& [tensor, value] = live[victim];
            ASSERT_TRUE(tensor.eq(value).all().item<bool>()) << "another tensor wrote here";
            live.erase(live.begin() + static_cast<std::ptrdiff_t>(victim));
            continue;
        }
        const auto elements = static_cast<std::int64_t>(1 + engine() % (1U << (4 + engine() % 16)));
        const auto value = static_cast<float>(round);
        live.emplace_back(at::full({elements}, value), value);
        ASSERT_EQ(reinterpret_cast<std::uintptr_t>(live.back().first.data_ptr()) % 64, 0U);
    }
}

TEST(CpuArena, blocks_never_overlap_and_all_come_back) {
    const at::Tensor from_before = at::ones({1 << 20});  // of LibTorch's allocator: freed by it
    ASSERT_TRUE(install_cpu_arena());
    const ArenaUse before = arena_use();
    churn(1, 4000);
    EXPECT_EQ(arena_use().live, before.live);
    EXPECT_GT(arena_use().peak, before.live);
}

TEST(CpuArena, counts_live_and_peak_bytes) {
    ASSERT_TRUE(install_cpu_arena());
    const std::int64_t before = arena_use().live;
    {
        const at::Tensor first = at::empty({1 << 20});
        EXPECT_EQ(arena_use().live, before + (4 << 20));
        const at::Tensor small = at::empty({100});
        EXPECT_EQ(arena_use().live, before + (4 << 20)) << "malloc serves small ones";
    }
    EXPECT_EQ(arena_use().live, before);
    EXPECT_GE(arena_use().peak, before + (4 << 20));
    restart_arena_peak();
    EXPECT_EQ(arena_use().peak, before);
}

TEST(CpuArena, freed_neighbours_serve_one_larger_block) {
    ASSERT_TRUE(install_cpu_arena());
    // Holes that earlier tensors left are filled first: the parts are eight that follow each other.
    const auto address = [](const at::Tensor& tensor) { return static_cast<char*>(tensor.data_ptr()); };
    std::vector<at::Tensor> fillers, parts;
    while (parts.size() < 8) {
        at::Tensor next = at::empty({1 << 18});
        if (!parts.empty() && address(next) != address(parts.back()) + (1 << 20)) {
            fillers.insert(fillers.end(), parts.begin(), parts.end());
            parts.clear();
        }
        parts.push_back(next);
        ASSERT_LT(fillers.size(), 10'000U);
    }
    char* first = address(parts.front());
    const at::Tensor fence = at::empty({1 << 18});  // what comes after must not be part of the hole
    for (const std::size_t i : {3, 1, 2, 0, 7, 5, 6, 4}) parts[i].reset();
    const at::Tensor whole = at::empty({8 << 18});
    EXPECT_EQ(static_cast<char*>(whole.data_ptr()), first);
}

TEST(CpuArena, serves_several_threads) {
    ASSERT_TRUE(install_cpu_arena());
    const std::int64_t before = arena_use().live;
    std::vector<std::thread> threads;
    for (unsigned seed = 10; seed < 14; ++seed) {
        threads.emplace_back([seed] {
            at::set_num_threads(1);
            churn(seed, 1000);
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(arena_use().live, before);
}

TEST(CpuArena, an_impossible_size_fails_as_before) {
    ASSERT_TRUE(install_cpu_arena());
    EXPECT_THROW(at::empty({std::int64_t{1} << 50}), c10::Error);
}

/// Sizes of so many tokens are no multiples of a page.
TEST(CpuArena, two_halves_fit_into_the_hole_of_a_whole) {
    ASSERT_TRUE(install_cpu_arena());
    constexpr std::int64_t kHalf = 3332 * 768;  // elements of 16 bits
    const std::vector<at::Tensor> fences = {at::empty({64 << 20}), at::empty({1 << 18})};
    at::Tensor whole = at::empty({kHalf});
    const at::Tensor behind = at::empty({1 << 18});
    const auto* begin = static_cast<const char*>(whole.data_ptr());
    whole.reset();
    const at::Tensor first = at::empty({kHalf}, at::kBFloat16), second = at::empty({kHalf}, at::kBFloat16);
    EXPECT_EQ(first.data_ptr(), begin);
    EXPECT_EQ(second.data_ptr(), begin + 2 * kHalf);
}

}  // namespace
}  // namespace qlora::ops
