#include "qlora/core/optional_file.h"

#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "support/temp_dir.h"

namespace qlora {
namespace {

constexpr const char* kLfsPointer =
    "version https://git-lfs.example/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

TEST(OptionalFile, ALinkThatLeadsNowhereIsNotAMissingFile) {
    const test::TempDir folder;
    EXPECT_FALSE(optional_file_exists(folder / "none"));
    test::write_file(folder / "file", "text");
    std::filesystem::create_symlink("file", folder / "link");
    EXPECT_TRUE(optional_file_exists(folder / "file"));
    EXPECT_TRUE(optional_file_exists(folder / "link"));
    std::filesystem::create_symlink("../blobs/12ab", folder / "half");
    try {
        optional_file_exists(folder / "half");
        FAIL() << "taken for a missing file";
    } catch (const CheckpointError& error) {
        EXPECT_EQ(error.what(),
                  (folder / "half").string() + ": is a link to ../blobs/12ab, which is not there");
    }
}

TEST(OptionalFile, WhatIsNoFileToCopyIsNamedTogether) {
    const test::TempDir folder;
    test::write_file(folder / "a", "text");
    test::write_file(folder / "b", "");
    constexpr const char* kWanted[] = {"b", "half", "pointer", "none", "a"};
    EXPECT_EQ(existing_files(folder.path(), kWanted),
              (std::vector<std::filesystem::path>{folder / "b", folder / "a"}));
    std::filesystem::create_symlink("nowhere", folder / "half");
    test::write_file(folder / "pointer", kLfsPointer);
    try {
        existing_files(folder.path(), kWanted);
        FAIL() << "accepted";
    } catch (const CheckpointError& error) {
        const std::string text = error.what();
        EXPECT_NE(text.find("half: is a link to nowhere"), std::string::npos) << text;
        EXPECT_NE(text.find("pointer: is a Git LFS pointer"), std::string::npos) << text;
    }
}

}  // namespace
}  // namespace qlora
