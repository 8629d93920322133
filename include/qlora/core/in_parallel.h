#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace qlora {

/// Calls `work` for each index below `count`, on at most `threads` threads, each taking a few neighbouring
/// indices at a time; it must not throw. Where the system gives fewer threads, those do all the work.
void in_parallel(std::size_t count, std::int64_t threads, const std::function<void(std::size_t)>& work);

}  // namespace qlora
