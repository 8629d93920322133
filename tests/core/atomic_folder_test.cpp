#include "qlora/core/atomic_folder.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <vector>

#include "qlora/core/error.h"
#include "support/temp_dir.h"

namespace {

namespace fs = std::filesystem;

/// What the system calls below do besides, or instead.
struct Calls {
    bool can_exchange = true;
    std::function<bool(const fs::path& from, const fs::path& to)> fails_rename;
    std::function<void(const fs::path& synced)> on_sync;
} calls;

template <class Function>
Function* next(const char* name) {
    return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

// The program's own definitions come before those of the C library.
extern "C" {

int renameat2(int old_folder, const char* from, int new_folder, const char* to, unsigned flags) noexcept {
    if (calls.can_exchange)
        return next<int(int, const char*, int, const char*, unsigned)>("renameat2")(old_folder, from,
                                                                                    new_folder, to, flags);
    errno = EINVAL;
    return -1;
}

int rename(const char* from, const char* to) noexcept {
    if (!calls.fails_rename || !calls.fails_rename(from, to))
        return next<int(const char*, const char*)>("rename")(from, to);
    errno = EIO;
    return -1;
}

int fsync(int fd) {
    if (calls.on_sync) calls.on_sync(fs::read_symlink("/proc/self/fd/" + std::to_string(fd)));
    return next<int(int)>("fsync")(fd);
}
}

namespace qlora {
namespace {

class AtomicFolder : public testing::Test {
  protected:
    ~AtomicFolder() override { calls = {}; }

    void write(const std::string& content) {
        write_folder_atomically(
            folder_, [&](const fs::path& temporary) { test::write_file(temporary / "content", content); });
    }
    std::string content() const { return test::read_file(folder_ / "content"); }
    std::vector<std::string> names() const {
        std::vector<std::string> out;
        for (const auto& entry : fs::directory_iterator(root_.path()))
            out.push_back(entry.path().filename().string());
        std::sort(out.begin(), out.end());
        return out;
    }
    /// A temporary folder as a writer with this process id leaves it.
    fs::path leftover(const std::string& owner) const {
        const fs::path out = root_ / (".tmp-out-" + owner);
        fs::create_directory(out);
        test::write_file(out / "half", "x");
        return out;
    }

    test::TempDir root_;
    fs::path folder_ = root_ / "out";
};

TEST_F(AtomicFolder, TheNameOfEachNewParentIsSynced) {
    folder_ = root_ / "a" / "b" / "c" / "out";
    std::vector<fs::path> synced;
    calls.on_sync = [&](const fs::path& path) { synced.push_back(path); };
    write("x");
    const fs::path root = fs::canonical(root_.path());
    for (const fs::path& parent : {root, root / "a", root / "a" / "b", root / "a" / "b" / "c"})
        EXPECT_EQ(std::count(synced.begin(), synced.end(), parent), 1) << parent;
}

TEST_F(AtomicFolder, AFailureLeavesNeitherTheFolderNorItsNewParents) {
    folder_ = root_ / "a" / "b" / "out";
    EXPECT_THROW(write_folder_atomically(folder_, [](const fs::path&) { throw ConfigError("no"); }),
                 ConfigError);
    EXPECT_TRUE(names().empty());
}

TEST_F(AtomicFolder, WhereFoldersCannotBeExchangedAFailingRenamePutsTheOldOneBack) {
    write("old");
    calls.can_exchange = false;
    calls.fails_rename = [&](const fs::path& from, const fs::path& to) {
        return to == folder_ && from.filename().string().starts_with(kTemporaryPrefix);
    };
    EXPECT_THROW(write("new"), ResourceError);
    EXPECT_EQ(content(), "old");
    EXPECT_EQ(names(), std::vector<std::string>{"out"});
}

TEST_F(AtomicFolder, WhereFoldersCannotBeExchangedTheOldOneStaysUntilTheNewNameIsSynced) {
    write("old");
    calls.can_exchange = false;
    bool is_seen = false;
    calls.on_sync = [&](const fs::path& path) {
        if (path != fs::canonical(root_.path()) || is_seen) return;
        is_seen = true;
        EXPECT_EQ(content(), "new");
        EXPECT_EQ(test::read_file(root_ / ".old-out" / "content"), "old");
    };
    write("new");
    EXPECT_TRUE(is_seen);
    EXPECT_EQ(names(), std::vector<std::string>{"out"});
}

TEST_F(AtomicFolder, WhatAKilledWriterLeftIsRemoved) {
    const pid_t child = fork();
    if (child == 0) _exit(0);
    waitpid(child, nullptr, 0);  // its id is nobody's
    leftover(std::to_string(child));
    remove_leftovers_of(folder_);
    EXPECT_TRUE(names().empty());
}

TEST_F(AtomicFolder, WhatALivingProcessWritesStays) {
    leftover(std::to_string(getppid()));
    // On another machine the id of its owner says nothing here; its lock does.
    const pid_t child = fork();
    if (child == 0) _exit(0);
    waitpid(child, nullptr, 0);
    const fs::path locked = leftover(std::to_string(child));
    const int fd = open(locked.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_EQ(flock(fd, LOCK_EX), 0);
    remove_leftovers_of(folder_);
    EXPECT_EQ(names().size(), 2U);
    close(fd);
    remove_leftovers_of(folder_);
    EXPECT_EQ(names().size(), 1U);
}

TEST_F(AtomicFolder, AFolderThatIsBeingWrittenIsLocked) {
    write_folder_atomically(folder_, [&](const fs::path& temporary) {
        const int fd = open(temporary.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        EXPECT_NE(flock(fd, LOCK_EX | LOCK_NB), 0);
        close(fd);
    });
}

TEST_F(AtomicFolder, NamesOfOthersStay) {
    for (const char* name :
         {".tmp-other-999999999", ".tmp-out-12x", ".tmp-out-", ".tmp-out", "out-999999999"})
        fs::create_directory(root_ / name);
    test::write_file(root_ / ".tmp-out-999999999", "a file");
    remove_leftovers_of(folder_);
    EXPECT_EQ(names().size(), 6U);
}

}  // namespace
}  // namespace qlora
