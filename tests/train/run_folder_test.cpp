#include "qlora/train/run_folder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <optional>
#include <thread>

#include "qlora/core/error.h"
#include "qlora/train/stop_signal.h"
#include "support/temp_dir.h"

namespace qlora {
namespace {

using test::TempDir;
using train::RunLock;
using train::RunPaths;
using train::StopSignal;

std::string folder_refusal(const RunPaths& paths) {
    try {
        const RunLock lock(paths);
    } catch (const ConfigError& error) {
        return error.what();
    }
    return "";
}

TEST(RunLock, a_second_owner_is_told_the_first_ones_process) {
    const TempDir folder;
    const RunPaths paths{folder / "run"};
    const RunLock lock(paths);
    EXPECT_NE(folder_refusal(paths).find("(process " + std::to_string(::getpid()) + ")"), std::string::npos)
        << folder_refusal(paths);
}

TEST(RunLock, leaves_nothing_where_nothing_was_written) {
    const TempDir folder;
    { const RunLock lock({folder / "a/b/run"}); }
    EXPECT_FALSE(std::filesystem::exists(folder / "a"));
    {
        const RunLock lock({folder / "a/b/run"});
        test::write_file(folder / "a/b/run/metrics.jsonl", "");
    }
    EXPECT_TRUE(std::filesystem::exists(folder / "a/b/run/metrics.jsonl"));
    EXPECT_FALSE(std::filesystem::exists(folder / "a/b/run/.lock"));
    std::filesystem::create_directory(folder / "empty");
    { const RunLock lock({folder / "empty"}); }
    EXPECT_TRUE(std::filesystem::exists(folder / "empty")) << "it was there before";
}

TEST(RunLock, of_a_killed_owner_is_free) {
    const TempDir folder;
    const RunPaths paths{folder.path()};
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        const RunLock lock(paths);
        if (::write(ready[1], "x", 1) != 1) ::_exit(1);
        ::pause();
    }
    char byte = 0;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);
    EXPECT_NE(folder_refusal(paths).find("(process " + std::to_string(child) + ")"), std::string::npos);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    EXPECT_TRUE(std::filesystem::exists(paths.lock())) << "the file stays, the lock is gone";
    EXPECT_EQ(folder_refusal(paths), "");
    ::close(ready[0]);
    ::close(ready[1]);
}

/// The name goes after the next run has opened the file and before it locks it, which a lease on the file
/// shows: the kernel holds the open back until the lease is given up.
TEST(RunLock, a_lock_file_that_its_owner_has_just_removed_is_not_one) {
    const TempDir folder;
    const RunPaths paths{folder.path()};
    const sighandler_t before = ::signal(SIGIO, SIG_IGN);  // tells of the open
    const int older = ::open(paths.lock().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    ASSERT_GE(older, 0);
    if (::fcntl(older, F_SETLEASE, F_WRLCK) != 0) GTEST_SKIP() << "no leases on this file system";
    std::optional<RunLock> second;
    std::thread next([&] { second.emplace(paths); });
    for (int i = 0; i < 5000 && ::fcntl(older, F_GETLEASE) == F_WRLCK; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_NE(::fcntl(older, F_GETLEASE), F_WRLCK) << "nobody opens it";
    ::unlink(paths.lock().c_str());
    ::fcntl(older, F_SETLEASE, F_UNLCK);
    ::close(older);
    next.join();
    EXPECT_NE(folder_refusal(paths), "") << "a third run must be refused";
    ::signal(SIGIO, before);
}

TEST(RunLock, a_place_that_is_no_folder_is_refused_by_name) {
    const TempDir folder;
    test::write_file(folder / "file", "precious");
    for (const auto& path : {folder / "file", folder / "file/run"}) {
        EXPECT_NE(folder_refusal({path}).find("training.output_dir: " + path.string()), std::string::npos)
            << folder_refusal({path});
    }
    EXPECT_EQ(test::read_file(folder / "file"), "precious");
}

TEST(RunPaths, each_file_of_a_run_counts_as_one) {
    const TempDir folder;
    for (const char* name : {"run_config.json", "metrics.jsonl", "adapter", "checkpoints"}) {
        const RunPaths paths{folder / name};
        std::filesystem::create_directories(paths.root);
        EXPECT_FALSE(paths.holds_run());
        test::write_file(paths.lock(), "1");
        EXPECT_FALSE(paths.holds_run()) << "a lock is not a run";
        std::filesystem::create_directory(paths.root / name);
        EXPECT_TRUE(paths.holds_run());
    }
}

TEST(StopSignal, the_first_is_remembered) {
    for (const int signal : {SIGINT, SIGTERM}) {
        const StopSignal stop;
        EXPECT_EQ(StopSignal::received(), 0);
        ::raise(signal);
        EXPECT_EQ(StopSignal::received(), signal);
    }
}

TEST(StopSignal, a_closed_terminal_and_a_closed_pipe_are_not_one) {
    const StopSignal stop;
    for (const int signal : {SIGHUP, SIGPIPE, SIGXFSZ}) ::raise(signal);
    EXPECT_EQ(StopSignal::received(), 0);
}

TEST(StopSignal, leaves_what_was_there_before) {
    const auto handler_of = [](int signal) {
        struct sigaction action {};
        sigaction(signal, nullptr, &action);
        return action.sa_handler;
    };
    const sighandler_t own = [](int) {};
    const sighandler_t hang_up = ::signal(SIGHUP, SIG_IGN);  // as nohup sets it
    const sighandler_t term = ::signal(SIGTERM, own);
    {
        const StopSignal stop;
        EXPECT_NE(handler_of(SIGTERM), own);
    }
    EXPECT_EQ(handler_of(SIGHUP), SIG_IGN);
    EXPECT_EQ(handler_of(SIGTERM), own);
    EXPECT_EQ(handler_of(SIGINT), SIG_DFL);
    ::signal(SIGHUP, hang_up);
    ::signal(SIGTERM, term);
}

TEST(StopSignalDeathTest, the_second_ends_the_process_at_once) {
    const auto twice = [](int first, int second) {
        const StopSignal stop;
        ::raise(first);
        ::raise(second);
    };
    EXPECT_EXIT(twice(SIGTERM, SIGTERM), ::testing::ExitedWithCode(143), "");
    EXPECT_EXIT(twice(SIGTERM, SIGINT), ::testing::ExitedWithCode(130), "");
    EXPECT_EXIT(twice(SIGINT, SIGINT), ::testing::ExitedWithCode(130), "");
}

}  // namespace
}  // namespace qlora
