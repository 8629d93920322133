#include "qlora/core/control_groups.h"

#include <gtest/gtest.h>

#include <string>

#include "support/temp_dir.h"

namespace {

using namespace qlora;

constexpr std::int64_t kGb = 1'000'000'000;

/// A made-up /proc and /sys.
class ControlGroups : public testing::Test {
  protected:
    void write(const std::string& file, const std::string& text) {
        std::filesystem::create_directories((root_ / file).parent_path());
        qlora::test::write_file(root_ / file, text + "\n");
    }
    void write(const std::string& file, std::int64_t value) { write(file, std::to_string(value)); }

    /// Version 2 with this process in `group`; the mount shows the groups below `shown`.
    void use_version2(const std::string& group, const std::string& shown = "/") {
        write("proc/self/cgroup", "0::" + group);
        write("proc/self/mountinfo",
              "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 23 0:26 " + shown +
                  " /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate");
    }
    /// Version 1 with the controllers that matter here, each in `group`.
    void use_version1(const std::string& group, const std::string& shown = "/") {
        write("proc/self/cgroup",
              "9:name=systemd:/\n8:pids:" + group + "\n4:memory:" + group + "\n1:cpu,cpuacct:" + group);
        write("proc/self/mountinfo",
              "32 31 0:29 " + shown + " /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n35 31 0:32 " +
                  shown + " /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n39 31 0:36 " + shown +
                  " /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids");
    }
    void memory2(const std::string& folder, const std::string& most, std::int64_t used,
                 std::int64_t inactive = 0, std::int64_t active = 0) {
        write(folder + "/memory.max", most);
        write(folder + "/memory.current", used);
        write(folder + "/memory.stat", "anon 1\nfile 7\ninactive_anon 5\ninactive_file " +
                                           std::to_string(inactive) + "\nactive_file " +
                                           std::to_string(active) + "\nunevictable 3");
    }
    void memory1(const std::string& folder, std::int64_t most, std::int64_t used, std::int64_t inactive = 0,
                 std::int64_t active = 0) {
        write(folder + "/memory.limit_in_bytes", most);
        write(folder + "/memory.usage_in_bytes", used);
        write(folder + "/memory.stat", "inactive_file 1\nactive_file 2\nhierarchical_memory_limit " +
                                           std::to_string(most) + "\ntotal_inactive_file " +
                                           std::to_string(inactive) + "\ntotal_active_file " +
                                           std::to_string(active));
    }
    ControlGroupLimits read() const { return read_control_groups(root_.path()); }

    qlora::test::TempDir root_;
};

TEST_F(ControlGroups, page_cache_that_can_be_given_back_is_free) {
    use_version2("/");
    memory2("sys/fs/cgroup", std::to_string(16 * kGb), 15 * kGb, 9 * kGb, 5 * kGb);
    EXPECT_EQ(read().memory, 15 * kGb);

    use_version1("/");
    memory1("sys/fs/cgroup/memory", 16 * kGb, 15 * kGb, 9 * kGb, 5 * kGb);
    EXPECT_EQ(read().memory, 15 * kGb);
}

TEST_F(ControlGroups, without_a_limit_there_is_none) {
    EXPECT_FALSE(read().memory) << "no control groups at all";
    use_version2("/user.slice");
    memory2("sys/fs/cgroup/user.slice", "max", 5 * kGb, kGb);
    write("sys/fs/cgroup/user.slice/cpu.max", "max 100000");
    write("sys/fs/cgroup/user.slice/pids.max", "max");
    write("sys/fs/cgroup/user.slice/pids.current", 7);
    EXPECT_FALSE(read().memory || read().processors || read().tasks);

    use_version1("/a");
    memory1("sys/fs/cgroup/memory/a", 9223372036854771712, 5 * kGb);
    write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", -1);
    write("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", 100000);
    EXPECT_FALSE(read().memory || read().processors || read().tasks);
}

TEST_F(ControlGroups, the_tightest_of_the_own_group_and_those_around_it_counts) {
    const std::string job = "sys/fs/cgroup/system.slice/slurmstepd.scope/job_7";
    use_version2("/system.slice/slurmstepd.scope/job_7/step_0/user/task_0");
    memory2(job, std::to_string(8 * kGb), 6 * kGb, kGb);
    memory2(job + "/step_0", std::to_string(9 * kGb), 2 * kGb);
    memory2(job + "/step_0/user/task_0", "max", 2 * kGb);
    EXPECT_EQ(read().memory, 3 * kGb);
    memory2(job + "/step_0", std::to_string(4 * kGb), 2 * kGb);
    EXPECT_EQ(read().memory, 2 * kGb);
    // A neighbour's limit is not ours.
    memory2(job + "/step_1", std::to_string(kGb), kGb);
    EXPECT_EQ(read().memory, 2 * kGb);
}

TEST_F(ControlGroups, memory_high_limits_too) {
    use_version2("/session.scope");
    memory2("sys/fs/cgroup/session.scope", std::to_string(16 * kGb), 3 * kGb);
    write("sys/fs/cgroup/session.scope/memory.high", 5 * kGb);
    EXPECT_EQ(read().memory, 2 * kGb);
}

TEST_F(ControlGroups, a_container_that_sees_only_its_own_groups) {
    // Without a namespace of its own the group is named from the host's root, and the mount begins below it.
    for (const std::string group : {"/docker/0f3a", "/docker/0f3a/inner"}) {
        use_version1(group, "/docker/0f3a");
        memory1("sys/fs/cgroup/memory", 4 * kGb, kGb);
        memory1("sys/fs/cgroup/memory/inner", 3 * kGb, kGb);
        EXPECT_EQ(read().memory, (group.ends_with("inner") ? 2 : 3) * kGb) << group;
    }
    // A group that the mount does not show: its root is the container's.
    use_version2("/../other", "/");
    memory2("sys/fs/cgroup", std::to_string(2 * kGb), kGb);
    memory2("sys/fs/cgroup/other", std::to_string(kGb), kGb);
    EXPECT_EQ(read().memory, kGb);
}

TEST_F(ControlGroups, version_1_knows_limits_of_groups_that_are_not_mounted) {
    use_version1("/docker/0f3a", "/docker/0f3a");
    memory1("sys/fs/cgroup/memory", 9223372036854771712, kGb);
    write("sys/fs/cgroup/memory/memory.stat", "hierarchical_memory_limit " + std::to_string(3 * kGb));
    EXPECT_EQ(read().memory, 2 * kGb);
}

TEST_F(ControlGroups, both_versions_at_once) {
    write("proc/self/cgroup", "4:memory:/job\n0::/job");
    write("proc/self/mountinfo",
          "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
          "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw");
    memory1("sys/fs/cgroup/memory/job", 4 * kGb, kGb);
    write("sys/fs/cgroup/unified/job/cpu.max", "150000 100000");
    EXPECT_EQ(read().memory, 3 * kGb);
    EXPECT_EQ(read().processors, 1.5);
}

TEST_F(ControlGroups, a_full_group_has_nothing_left) {
    use_version2("/a");
    memory2("sys/fs/cgroup/a", std::to_string(kGb), 2 * kGb);
    EXPECT_EQ(read().memory, 0);
    // Cache counted a moment later than the usage may be more than it.
    memory2("sys/fs/cgroup/a", std::to_string(kGb), kGb / 2, kGb);
    EXPECT_EQ(read().memory, kGb);
}

TEST_F(ControlGroups, quotas_and_tasks) {
    use_version2("/a/b");
    write("sys/fs/cgroup/a/cpu.max", "250000 100000");
    write("sys/fs/cgroup/a/b/cpu.max", "max 100000");
    write("sys/fs/cgroup/a/pids.max", 100);
    write("sys/fs/cgroup/a/pids.current", 40);
    EXPECT_EQ(read().processors, 2.5);
    EXPECT_EQ(read().tasks, 60);

    use_version1("/a");
    write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", 50000);
    write("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", 100000);
    write("sys/fs/cgroup/pids/a/pids.max", 10);
    write("sys/fs/cgroup/pids/a/pids.current", 12);
    EXPECT_EQ(read().processors, 0.5);
    EXPECT_EQ(read().tasks, 0);
}

TEST_F(ControlGroups, mount_points_with_blanks) {
    write("proc/self/cgroup", "0::/a");
    write("proc/self/mountinfo", "41 31 0:38 / /my\\040groups rw - cgroup2 cgroup2 rw");
    memory2("my groups/a", std::to_string(2 * kGb), kGb);
    EXPECT_EQ(read().memory, kGb);
}

}  // namespace
