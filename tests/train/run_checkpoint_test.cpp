#include "qlora/train/run_checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>

#include "qlora/core/atomic_folder.h"
#include "qlora/core/error.h"
#include "qlora/core/whole_file.h"
#include "support/captured_log.h"
#include "support/temp_dir.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;
using test::read_file;
using test::TempDir;
using test::write_file;

void write_checkpoint(const fs::path& checkpoints, std::int64_t step,
                      const std::string& content = "weights") {
    train::write_folder_with_manifest(checkpoints / ("step-" + std::to_string(step)),
                                      [&](const fs::path& folder) {
                                          write_file(folder / "a.bin", content);
                                          write_file(folder / "b.json", "{}");
                                      });
}

std::vector<std::int64_t> steps(const fs::path& checkpoints) {
    std::vector<std::int64_t> out;
    for (const train::CheckpointFolder& folder : train::list_checkpoints(checkpoints))
        out.push_back(folder.step);
    return out;
}

std::vector<std::string> names(const fs::path& folder) {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(folder)) out.push_back(entry.path().filename().string());
    std::sort(out.begin(), out.end());
    return out;
}

TEST(FolderFault, every_changed_bit_of_every_file_is_found) {
    const TempDir folder;
    write_checkpoint(folder.path(), 1);
    const fs::path checkpoint = folder / "step-1";
    ASSERT_EQ(train::folder_fault(checkpoint), "");
    for (const std::string& name : names(checkpoint)) {
        const std::string content = read_file(checkpoint / name);
        for (std::size_t bit = 0; bit < 8 * content.size(); ++bit) {
            std::string changed = content;
            changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << bit % 8));
            write_file(checkpoint / name, changed);
            EXPECT_NE(train::folder_fault(checkpoint), "") << name << " bit " << bit;
        }
        write_file(checkpoint / name, content);
    }
    EXPECT_EQ(train::folder_fault(checkpoint), "");
}

TEST(FolderFault, every_truncation_and_a_missing_file_are_found_by_name) {
    const TempDir folder;
    write_checkpoint(folder.path(), 1);
    const fs::path checkpoint = folder / "step-1";
    for (const std::string& name : names(checkpoint)) {
        const std::string content = read_file(checkpoint / name);
        // The manifest counts by what it says: without its last line break it is whole.
        const std::size_t whole = content.size() - (name == "manifest.json" ? 1 : 0);
        for (std::size_t length = 0; length < whole; ++length) {
            write_file(checkpoint / name, content.substr(0, length));
            EXPECT_NE(train::folder_fault(checkpoint).find(name), std::string::npos)
                << name << " cut to " << length;
        }
        fs::remove(checkpoint / name);
        EXPECT_NE(train::folder_fault(checkpoint).find(name), std::string::npos);
        write_file(checkpoint / name, content);
    }
    EXPECT_NE(train::folder_fault(folder / "nowhere"), "");
}

TEST(ManifestHash, is_of_the_content) {
    const TempDir folder;
    write_checkpoint(folder.path(), 1, "same");
    write_checkpoint(folder.path(), 2, "same");
    write_checkpoint(folder.path(), 3, "other");
    const auto hash = [&](const char* name, const char* file) {
        return train::manifest_hash(folder / name, file);
    };
    EXPECT_EQ(hash("step-1", "a.bin"), hash("step-2", "a.bin"));
    EXPECT_NE(hash("step-1", "a.bin"), hash("step-3", "a.bin"));
    EXPECT_EQ(hash("step-1", "missing"), "");
    EXPECT_EQ(hash("nowhere", "a.bin"), "");
}

TEST(ListCheckpoints, newest_first_and_nothing_else) {
    const TempDir folder;
    for (const std::int64_t step : {2, 10, 9, 100}) write_checkpoint(folder.path(), step);
    for (const char* name : {"step-", "step-3x", "step-x", "other", ".tmp-step-4-1"})
        fs::create_directory(folder / name);
    write_file(folder / "step-7", "a file");
    EXPECT_EQ(steps(folder.path()), (std::vector<std::int64_t>{100, 10, 9, 2}));
    EXPECT_TRUE(train::list_checkpoints(folder / "nowhere").empty());
}

/// The message of the error that the search ends in.
std::string checkpoint_refusal(const fs::path& checkpoints) {
    try {
        train::newest_whole_checkpoint(checkpoints);
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kInput);
        return error.what();
    }
    return {};
}

TEST(NewestWholeCheckpoint, sets_broken_ones_aside_and_deletes_none) {
    const TempDir folder;
    EXPECT_FALSE(train::newest_whole_checkpoint(folder.path()));
    EXPECT_FALSE(train::newest_whole_checkpoint(folder / "nowhere"));
    for (const std::int64_t step : {1, 2, 3}) write_checkpoint(folder.path(), step);
    EXPECT_EQ(train::newest_whole_checkpoint(folder.path())->step, 3);
    fs::remove(folder / "step-3/manifest.json");
    const test::CapturedLog log;
    EXPECT_EQ(train::newest_whole_checkpoint(folder.path())->step, 2);
    EXPECT_EQ(train::newest_whole_checkpoint(folder.path())->step, 2);
    EXPECT_EQ(log.count("step-3 is broken (manifest.json is missing)"), 1U) << log.text();
    EXPECT_EQ(names(folder.path()), (std::vector<std::string>{".broken-step-3", "step-1", "step-2"}));
    // Written again by the run that went back behind it, and broken again.
    write_checkpoint(folder.path(), 3);
    write_file(folder / "step-3/b.json", "[]");
    write_file(folder / "step-2/b.json", "[]");
    EXPECT_EQ(train::newest_whole_checkpoint(folder.path())->step, 1);
    EXPECT_EQ(names(folder.path()),
              (std::vector<std::string>{".broken-step-2", ".broken-step-3", ".broken-step-3-2", "step-1"}));
    EXPECT_EQ(read_file(folder / ".broken-step-3/a.bin"), "weights");
    train::remove_leftovers(folder.path());
    train::prune_checkpoints(folder.path(), 1, 0, 1);
    EXPECT_EQ(names(folder.path()).size(), 4U);
}

TEST(NewestWholeCheckpoint, none_whole_is_refused_with_what_is_wrong_with_each) {
    const TempDir folder;
    for (const std::int64_t step : {1, 2}) write_checkpoint(folder.path(), step);
    fs::remove(folder / "step-2/a.bin");
    write_file(folder / "step-1/b.json", "[]");
    const auto before = names(folder.path());
    const std::string message = checkpoint_refusal(folder.path());
    for (const char* words : {"step-2 (a.bin is missing)", "step-1 (b.json has changed content)",
                              "another training.output_dir", "move that folder away"}) {
        EXPECT_NE(message.find(words), std::string::npos) << message;
    }
    EXPECT_EQ(names(folder.path()), before) << "else the next --resume would find none and start again";
    // Nor when the whole one that the run went on from is gone.
    fs::rename(folder / "step-2", folder / ".broken-step-2");
    fs::remove_all(folder / "step-1");
    EXPECT_NE(checkpoint_refusal(folder.path()).find(".broken-step-2"), std::string::npos)
        << checkpoint_refusal(folder.path());
}

TEST(NewestWholeCheckpoint, what_cannot_be_read_is_not_taken_for_broken) {
    for (const char* name : {"a.bin", "manifest.json"}) {
        const TempDir folder;
        for (const std::int64_t step : {1, 2}) write_checkpoint(folder.path(), step);
        fs::rename(folder / "step-2" / name, folder / "kept");
        fs::create_symlink(name, folder / "step-2" / name);  // ELOOP, for the superuser too
        EXPECT_NE(checkpoint_refusal(folder.path()).find("symbolic links"), std::string::npos)
            << checkpoint_refusal(folder.path());
        fs::remove(folder / "step-2" / name);
        fs::rename(folder / "kept", folder / "step-2" / name);
        EXPECT_EQ(train::newest_whole_checkpoint(folder.path())->step, 2) << "untouched";
    }
}

TEST(NewestWholeCheckpoint, without_a_free_descriptor_nothing_is_broken) {
    const TempDir folder;
    for (const std::int64_t step : {1, 2}) write_checkpoint(folder.path(), step);
    rlimit limit{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
    rlimit none = limit;
    none.rlim_cur = 0;
    ::setrlimit(RLIMIT_NOFILE, &none);
    EXPECT_THROW(train::folder_fault(folder / "step-2"), ReadError);
    EXPECT_ANY_THROW(train::newest_whole_checkpoint(folder.path()));
    ::setrlimit(RLIMIT_NOFILE, &limit);
    EXPECT_EQ(train::newest_whole_checkpoint(folder.path())->step, 2);
}

TEST(FolderFault, a_manifest_counts_by_what_it_says) {
    const TempDir folder;
    write_checkpoint(folder.path(), 1);
    const fs::path manifest = folder / "step-1/manifest.json";
    write_file(manifest, read_json_file(manifest).dump());  // other white space
    EXPECT_EQ(train::folder_fault(folder / "step-1"), "");
}

TEST(PruneCheckpoints, keeps_the_newest_and_the_best) {
    using Steps = std::vector<std::int64_t>;
    const auto pruned = [](std::optional<std::int64_t> limit, std::int64_t best, std::int64_t step) {
        const TempDir folder;
        for (const std::int64_t each : {1, 2, 3, 4, 5}) write_checkpoint(folder.path(), each);
        train::prune_checkpoints(folder.path(), limit, best, step);
        EXPECT_EQ(names(folder.path()).size(), steps(folder.path()).size()) << "nothing half deleted";
        return steps(folder.path());
    };
    EXPECT_EQ(pruned(2, 0, 5), (Steps{5, 4}));
    EXPECT_EQ(pruned(2, 1, 5), (Steps{5, 4, 1}));
    EXPECT_EQ(pruned(2, 5, 5), (Steps{5, 4}));
    EXPECT_EQ(pruned(1, 4, 5), (Steps{5, 4}));
    EXPECT_EQ(pruned(9, 0, 5), (Steps{5, 4, 3, 2, 1}));
    EXPECT_EQ(pruned(std::nullopt, 0, 5), (Steps{5, 4, 3, 2, 1}));
    // Later ones are somebody else's.
    EXPECT_EQ(pruned(1, 0, 3), (Steps{5, 4, 3}));
    EXPECT_EQ(pruned(std::nullopt, 0, 3), (Steps{5, 4, 3, 2, 1}));
}

TEST(WriteFolder, replaces_the_old_one_or_leaves_it) {
    const TempDir folder;
    write_checkpoint(folder.path(), 1, "old");
    EXPECT_THROW(train::write_folder_with_manifest(folder / "step-1",
                                                   [](const fs::path& temporary) {
                                                       write_file(temporary / "a.bin", "half");
                                                       throw ResourceError("full");
                                                   }),
                 ResourceError);
    EXPECT_EQ(read_file(folder / "step-1/a.bin"), "old");
    EXPECT_EQ(train::folder_fault(folder / "step-1"), "");
    write_checkpoint(folder.path(), 1, "new");
    EXPECT_EQ(read_file(folder / "step-1/a.bin"), "new");
    EXPECT_EQ(names(folder.path()), std::vector<std::string>{"step-1"});
}

TEST(RemoveLeftovers, takes_what_killed_runs_left_and_nothing_of_the_users) {
    const TempDir folder;
    write_checkpoint(folder.path(), 1);
    for (const char* name : {".tmp-step-2-4711", ".tmp-adapter-1"}) {
        fs::create_directories(folder / name / "inner");
        write_file(folder / name / "inner/file", "");
    }
    write_file(folder / ".tmp-123-0", "");
    for (const char* name : {".tmp-notes", ".tmp-", "tmp-1-1", ".tmp-a-1b"})
        write_file(folder / name, "mine");
    train::remove_leftovers(folder.path());
    EXPECT_EQ(names(folder.path()),
              (std::vector<std::string>{".tmp-", ".tmp-a-1b", ".tmp-notes", "step-1", "tmp-1-1"}));
    train::remove_leftovers(folder / "nowhere");
}

TEST(RemoveLeftovers, puts_back_what_was_moved_aside) {
    const TempDir folder;
    write_checkpoint(folder.path(), 1, "one");
    write_checkpoint(folder.path(), 2, "two");
    // Killed between the two renames, and after the second.
    fs::rename(folder / "step-1", folder / ".old-step-1");
    fs::copy(folder / "step-2", folder / ".old-step-2");
    write_file(folder / ".old-step-2/a.bin", "older");
    train::remove_leftovers(folder.path());
    EXPECT_EQ(names(folder.path()), (std::vector<std::string>{"step-1", "step-2"}));
    EXPECT_EQ(read_file(folder / "step-1/a.bin"), "one");
    EXPECT_EQ(read_file(folder / "step-2/a.bin"), "two");
}

TEST(DiscardFolder, removes_it_with_all_it_holds) {
    const TempDir folder;
    write_checkpoint(folder.path(), 1);
    train::discard_folder(folder / "step-1");
    EXPECT_TRUE(names(folder.path()).empty());
    train::discard_folder(folder / "step-1");  // logged, not thrown
}

}  // namespace
}  // namespace qlora
