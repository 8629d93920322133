#include "qlora/models/folder_writer.h"

#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "support/temp_dir.h"

namespace qlora::models {
namespace {

TEST(FolderWriter, a_git_lfs_pointer_is_never_copied) {
    const test::TempDir from, to;
    test::write_file(from / "tokenizer.model",
                     "version https://git-lfs.example/spec/v1\noid sha256:4d7a2146\nsize 12345\n");
    test::write_file(from / "merges.txt", "");
    copy_file_synced(from / "merges.txt", to.path());
    EXPECT_EQ(test::read_file(to / "merges.txt"), "");
    try {
        copy_file_synced(from / "tokenizer.model", to.path());
        FAIL() << "copied";
    } catch (const CheckpointError& error) {
        EXPECT_NE(std::string(error.what()).find("tokenizer.model: is a Git LFS pointer"), std::string::npos)
            << error.what();
    }
    EXPECT_FALSE(std::filesystem::exists(to / "tokenizer.model"));
}

}  // namespace
}  // namespace qlora::models
