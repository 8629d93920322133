#pragma once

#include <cstdint>
#include <optional>

namespace qlora::cli {

/// Sets the CPU threads and returns their number. null: OMP_NUM_THREADS if it is set, else one for each
/// physical core that this process may use, at most its CPU quota. ResourceError when the system gives no
/// memory for so many.
std::int64_t set_threads(std::optional<std::int64_t> threads);

}  // namespace qlora::cli
