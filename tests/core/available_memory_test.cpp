#include "qlora/core/available_memory.h"

#include <gtest/gtest.h>

#include <string>

#include "support/temp_dir.h"

namespace {

using namespace qlora;
using qlora::test::write_file;

TEST(AvailableMemory, is_what_the_machine_has_or_less_in_a_group) {
    const qlora::test::TempDir root;
    for (const char* folder : {"proc/self", "sys/fs/cgroup"})
        std::filesystem::create_directories(root / folder);
    write_file(root / "proc/meminfo",
               "MemTotal: 9000 kB\nMemFree: 10 kB\nHugePages_Total: 0\nMemAvailable: 4000 kB\n");
    EXPECT_EQ(available_memory(root.path()), 4000 * 1024);

    write_file(root / "proc/self/cgroup", "0::/\n");
    write_file(root / "proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    write_file(root / "sys/fs/cgroup/memory.max", "3000000\n");
    write_file(root / "sys/fs/cgroup/memory.current", "2900000\n");
    write_file(root / "sys/fs/cgroup/memory.stat", "inactive_file 2000000\nactive_file 0\n");
    EXPECT_EQ(available_memory(root.path()), 2'100'000);
    // A group may allow more than there is.
    write_file(root / "sys/fs/cgroup/memory.max", "30000000000\n");
    EXPECT_EQ(available_memory(root.path()), 4000 * 1024);
}

TEST(AvailableMemory, is_some_of_this_machine) {
    EXPECT_GT(available_memory(), 0);
}

}  // namespace
