#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace qlora {

/// What the control groups of this process (cgroup version 1 or 2) leave it: the least over its own group and
/// all groups around it that can be seen. Empty where nothing is limited.
struct ControlGroupLimits {
    /// Bytes that can still be taken. Page cache that the kernel would give back counts as free: it is
    /// charged to the group, so reading a large file fills a group without using it up.
    std::optional<std::int64_t> memory;
    std::optional<double> processors;   ///< CPU quota: processor seconds a second
    std::optional<std::int64_t> tasks;  ///< threads and processes that can still be started
};

/// `root` stands before every path that is read: /proc/self/cgroup, /proc/self/mountinfo and the folders that
/// they name.
ControlGroupLimits read_control_groups(const std::filesystem::path& root = "/");

}  // namespace qlora
