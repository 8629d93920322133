#include "qlora/core/in_parallel.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

namespace qlora {
namespace {

/// Indices that a thread takes at a time.
constexpr std::size_t kTurn = 16;

}  // namespace

void in_parallel(std::size_t count, std::int64_t threads, const std::function<void(std::size_t)>& work) {
    std::atomic<std::size_t> next{0};
    const auto run = [&] {
        for (std::size_t begin = 0; (begin = next.fetch_add(kTurn)) < count;) {
            for (std::size_t i = begin; i < std::min(count, begin + kTurn); ++i) work(i);
        }
    };
    const std::size_t turns = (count + kTurn - 1) / kTurn;
    std::vector<std::jthread> others;
    try {
        for (std::size_t i = 1; i < std::min(turns, static_cast<std::size_t>(threads)); ++i)
            others.emplace_back(run);
    } catch (const std::system_error&) {
        // The threads that there are do the work.
    }
    run();
}

}  // namespace qlora
