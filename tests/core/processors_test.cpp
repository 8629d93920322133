#include "qlora/core/processors.h"

#include <gtest/gtest.h>

#include <string>

#include "support/temp_dir.h"

namespace {

using namespace qlora;
using List = std::vector<std::int64_t>;

/// A made-up /proc and /sys.
class Processors : public testing::Test {
  protected:
    void write(const std::string& file, const std::string& text) {
        std::filesystem::create_directories((root_ / file).parent_path());
        qlora::test::write_file(root_ / file, text + "\n");
    }
    /// `count` processors, of which i and i + count / 2 are hyper-threads of one core.
    void use_hyper_threads(int count) {
        for (int i = 0; i < count; ++i) {
            const int core = i % (count / 2);
            write("sys/devices/system/cpu/cpu" + std::to_string(i) + "/topology/thread_siblings_list",
                  std::to_string(core) + "," + std::to_string(core + count / 2));
        }
    }
    void use_quota(const std::string& quota) {
        write("proc/self/cgroup", "0::/");
        write("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw");
        write("sys/fs/cgroup/cpu.max", quota + " 100000");
    }
    std::int64_t cores(const List& processors) const { return physical_cores(processors, root_.path()); }
    std::int64_t threads(const List& processors) const { return useful_threads(processors, root_.path()); }

    qlora::test::TempDir root_;
};

TEST_F(Processors, allowed_are_those_of_the_affinity_mask_that_are_online) {
    write("proc/self/status",
          "Name:\tqlora\nCpus_allowed:\tff\nCpus_allowed_list:\t0-3,6,9-127\nSeccomp:\t0");
    EXPECT_EQ(allowed_processors(root_.path()).size(), 124U);
    write("sys/devices/system/cpu/online", "0-2,6-7");
    EXPECT_EQ(allowed_processors(root_.path()), (List{0, 1, 2, 6}));
}

TEST_F(Processors, hyper_threads_of_a_core_count_once) {
    use_hyper_threads(8);
    EXPECT_EQ(cores({0, 1, 2, 3, 4, 5, 6, 7}), 4);
    EXPECT_EQ(cores({0, 4}), 1);
    EXPECT_EQ(cores({0, 1}), 2);
    EXPECT_EQ(cores({3}), 1);
}

TEST_F(Processors, without_a_topology_each_processor_is_a_core) {
    EXPECT_EQ(cores({0, 1, 5}), 3);
    EXPECT_EQ(cores({}), 1);
}

TEST_F(Processors, a_quota_limits_the_threads) {
    use_hyper_threads(8);
    const List all = {0, 1, 2, 3, 4, 5, 6, 7};
    EXPECT_EQ(threads(all), 4);
    for (const auto& [quota, expected] :
         {std::pair("100000", 1), std::pair("110000", 2), std::pair("50000", 1), std::pair("399999", 4),
          std::pair("800000", 4), std::pair("max", 4)}) {
        use_quota(quota);
        EXPECT_EQ(threads(all), expected) << quota;
    }
}

TEST_F(Processors, threads_are_tried_only_under_a_limit_that_is_near) {
    write("proc/loadavg", "0.20 0.18 0.12 1/800 11206");
    write("proc/sys/kernel/threads-max", "1000");
    EXPECT_FALSE(threads_may_be_refused(100, root_.path()));
    EXPECT_TRUE(threads_may_be_refused(300, root_.path()));
    use_quota("max");
    write("sys/fs/cgroup/pids.max", "60");
    write("sys/fs/cgroup/pids.current", "10");
    EXPECT_FALSE(threads_may_be_refused(50, root_.path()));
    EXPECT_TRUE(threads_may_be_refused(51, root_.path()));
}

TEST(ThisMachine, has_processors_and_cores) {
    const List allowed = allowed_processors();
    EXPECT_GE(allowed.size(), 1U);
    EXPECT_GE(physical_cores(allowed), 1);
    EXPECT_LE(physical_cores(allowed), static_cast<std::int64_t>(allowed.size()));
}

}  // namespace
