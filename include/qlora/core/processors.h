#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace qlora {

/// The processors, by their numbers, that this process may run on and that are online. `root` stands before
/// every path that is read here and below (/proc/self/status, /sys/devices/system/cpu, the control groups).
std::vector<std::int64_t> allowed_processors(const std::filesystem::path& root = "/");

/// Physical cores among them: hyper-threads of one core count once, and a processor whose core is not known
/// counts as one.
std::int64_t physical_cores(const std::vector<std::int64_t>& processors,
                            const std::filesystem::path& root = "/");

/// How many threads can compute at a time: the physical cores, at most the control groups' CPU quota rounded
/// up, at least 1.
std::int64_t useful_threads(const std::vector<std::int64_t>& processors,
                            const std::filesystem::path& root = "/");

/// Whether the system may refuse `count` more threads: a limit on address space or data (ulimit -v, -d) is
/// set, or one on threads (ulimit -u, pids.max, the kernel's own) is so low.
bool threads_may_be_refused(std::int64_t count, const std::filesystem::path& root = "/");

}  // namespace qlora
