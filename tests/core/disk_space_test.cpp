#include "qlora/core/disk_space.h"

#include <gtest/gtest.h>

#include <limits>

#include "support/temp_dir.h"

namespace qlora {
namespace {

TEST(DiskSpace, WhatFitsPassesAndWhatDoesNotIsRefusedWithBothNumbers) {
    const test::TempDir folder;
    require_free_space(folder / "model", 1);
    constexpr std::uint64_t kTooMuch = std::numeric_limits<std::uint64_t>::max();
    try {
        require_free_space(folder / "model", kTooMuch);
        FAIL() << "nothing has that much room";
    } catch (const ResourceError& error) {
        const std::string text = error.what();
        EXPECT_NE(text.find((folder / "model").string() + ": the disk is too full; " +
                            std::to_string(kTooMuch) + " bytes needed, "),
                  std::string::npos)
            << text;
        EXPECT_NE(text.find(" free; make room"), std::string::npos) << text;
    }
}

TEST(DiskSpace, FoldersThatDoNotExistYetAreLookedUpAtTheirParent) {
    const test::TempDir folder;
    EXPECT_THROW(require_free_space(folder / "a/b/c/model", std::numeric_limits<std::uint64_t>::max()),
                 ResourceError);
    EXPECT_NO_THROW(require_free_space(folder / "a/b/c/model", 1));
}

}  // namespace
}  // namespace qlora
