#pragma once

#include <cstdint>
#include <filesystem>

namespace qlora {

/// Bytes that this process can still take: what the machine has available (MemAvailable), or what a control
/// group or `ulimit -v` leaves if that is less. `root` stands before the paths of /proc and /sys.
std::int64_t available_memory(const std::filesystem::path& root = "/");

}  // namespace qlora
