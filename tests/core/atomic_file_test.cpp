#include "qlora/core/atomic_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <limits>

#include "qlora/core/error.h"
#include "support/temp_dir.h"

namespace qlora {
namespace {

using test::read_file;
using test::TempDir;
using test::write_file;

std::size_t entries(const std::filesystem::path& folder) {
    const std::filesystem::directory_iterator all(folder);
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

std::string message_of(const std::function<void()>& action) {
    try {
        action();
    } catch (const Error& error) {
        return error.what();
    }
    return {};
}

std::string pattern(std::size_t size) {
    std::string text(size, '\0');
    for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 131 % 251);
    return text;
}

TEST(AtomicFile, nothing_under_the_final_name_before_commit) {
    const TempDir folder;
    write_file(folder / "a", "old");
    AtomicFile file(folder / "a");
    file.write("new");
    EXPECT_EQ(read_file(folder / "a"), "old");
    EXPECT_EQ(entries(folder.path()), 2U);
    file.commit();
    EXPECT_EQ(read_file(folder / "a"), "new");
    EXPECT_EQ(entries(folder.path()), 1U);
    EXPECT_EQ(file.bytes_written(), 3U);
}

TEST(AtomicFile, destroyed_before_commit_leaves_the_old_file_and_nothing_else) {
    const TempDir folder;
    write_file(folder / "a", "old");
    for (const std::size_t size : {0U, 10U, 1'000'000U}) {
        AtomicFile file(folder / "a");
        file.write(pattern(size));
    }
    try {
        AtomicFile file(folder / "b");
        file.write("half");
        throw std::runtime_error("the caller fails");
    } catch (const std::runtime_error&) {
    }
    EXPECT_EQ(read_file(folder / "a"), "old");
    EXPECT_EQ(entries(folder.path()), 1U);
}

TEST(AtomicFile, pieces_of_any_size_arrive_in_order) {
    const TempDir folder;
    const std::string text = pattern(1'500'000);
    for (const std::size_t piece : {1021U, 65'536U, 262'143U, 262'144U, 262'145U, 700'000U}) {
        AtomicFile file(folder / "a", text.size());
        for (std::size_t i = 0; i < text.size(); i += piece) {
            file.write(std::string_view(text).substr(i, piece));
            file.write("");
        }
        file.commit();
        EXPECT_TRUE(read_file(folder / "a") == text) << piece;
    }
    AtomicFile file(folder / "a");  // small after large and large after small
    for (const std::size_t size : {5U, 300'000U, 7U, 300'000U, 262'144U})
        file.write(std::string_view(text).substr(0, size));
    file.commit();
    EXPECT_TRUE(read_file(folder / "a") == text.substr(0, 5) + text.substr(0, 300'000) + text.substr(0, 7) +
                                               text.substr(0, 300'000) + text.substr(0, 262'144));
}

TEST(AtomicFile, leftover_of_a_killed_process_is_passed_over) {
    const TempDir folder;
    // The counter of this process is somewhere below 1000.
    for (int i = 0; i < 1000; ++i) {
        write_file(folder / (".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(i)), "left over");
    }
    write_file_atomically(folder / "a", "text");
    EXPECT_EQ(read_file(folder / "a"), "text");
    EXPECT_EQ(entries(folder.path()), 1001U);
    EXPECT_EQ(read_file(folder / (".tmp-" + std::to_string(::getpid()) + "-999")), "left over");
}

TEST(AtomicFile, mode_follows_the_umask) {
    const TempDir folder;
    const mode_t old = ::umask(027);
    write_file_atomically(folder / "a", "text");
    ::umask(old);
    struct stat status {};
    ASSERT_EQ(::stat((folder / "a").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0640U);
}

TEST(AtomicFile, replaces_a_link_and_not_what_it_points_to) {
    const TempDir folder;
    write_file(folder / "target", "kept");
    std::filesystem::create_symlink("target", folder / "a");
    write_file_atomically(folder / "a", "new");
    EXPECT_EQ(read_file(folder / "target"), "kept");
    EXPECT_FALSE(std::filesystem::is_symlink(folder / "a"));
}

TEST(AtomicFile, works_with_a_name_without_a_folder) {
    const TempDir folder;
    const std::filesystem::path before = std::filesystem::current_path();
    std::filesystem::current_path(folder.path());
    write_file_atomically("plain", "text");
    std::filesystem::current_path(before);
    EXPECT_EQ(read_file(folder / "plain"), "text");
}

TEST(AtomicFile, faults_name_the_file_and_leave_nothing) {
    const TempDir folder;
    std::filesystem::create_directory(folder / "taken");
    write_file(folder / "taken" / "x", "");
    write_file(folder / "file", "");
    for (const auto& path : {folder / "missing" / "a", folder / "file" / "a", folder / "taken"}) {
        EXPECT_THROW(write_file_atomically(path, "text"), CheckpointError) << path;
        const std::string message = message_of([&] { write_file_atomically(path, "text"); });
        EXPECT_NE(message.find(path.string()), std::string::npos) << message;
    }
    EXPECT_EQ(entries(folder.path()), 2U);
}

TEST(AtomicFile, too_full_a_disk_is_found_before_writing) {
    const TempDir folder;
    constexpr std::uint64_t kTooMuch = std::numeric_limits<std::uint64_t>::max() / 2;
    const auto start = [&] { AtomicFile file(folder / "a", kTooMuch); };
    EXPECT_THROW(start(), ResourceError);
    const std::string message = message_of(start);
    EXPECT_NE(message.find((folder / "a").string()), std::string::npos) << message;
    EXPECT_NE(message.find(std::to_string(kTooMuch) + " bytes needed"), std::string::npos) << message;
    EXPECT_NE(message.find(" free"), std::string::npos) << message;
    EXPECT_EQ(entries(folder.path()), 0U);
}

TEST(AtomicFile, failing_write_is_reported_and_keeps_the_old_file) {
    const TempDir folder;
    write_file(folder / "a", "old");
    // In a child, because a limit on the file size cannot be raised again by everyone. 100,000 bytes pass:
    // the first large write is short, the next fails.
    const pid_t child = ::fork();
    if (child == 0) {
        ::signal(SIGXFSZ, SIG_IGN);
        const rlimit limit{100'000, 100'000};
        ::setrlimit(RLIMIT_FSIZE, &limit);
        int code = 1;
        try {
            write_file_atomically(folder / "a", pattern(1'000'000));
        } catch (const CheckpointError& error) {
            code = std::string(error.what()).find((folder / "a").string()) == 0 ? 0 : 2;
        } catch (...) {
            code = 3;
        }
        ::_exit(code);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
    EXPECT_EQ(read_file(folder / "a"), "old");
    EXPECT_EQ(entries(folder.path()), 1U);
}

TEST(AtomicFile, use_after_commit_is_our_fault) {
    const TempDir folder;
    AtomicFile file(folder / "a");
    file.commit();
    try {
        file.write("more");
        FAIL();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kInternal);
    }
    EXPECT_THROW(file.commit(), Error);
    EXPECT_EQ(read_file(folder / "a"), "");
}

TEST(SyncFolder, accepts_a_folder_and_names_what_is_none) {
    const TempDir folder;
    sync_folder(folder.path());
    write_file(folder / "file", "");
    for (const auto& path : {folder / "missing", folder / "file"}) {
        EXPECT_THROW(sync_folder(path), CheckpointError);
        EXPECT_NE(message_of([&] { sync_folder(path); }).find(path.string()), std::string::npos);
    }
}

}  // namespace
}  // namespace qlora
