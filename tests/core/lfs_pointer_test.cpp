#include "qlora/core/lfs_pointer.h"

#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "support/temp_dir.h"

namespace qlora {
namespace {

const std::string kPointer =
    "version https://git-lfs.example/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

TEST(LfsPointer, IsKnownByItsText) {
    EXPECT_NE(fault_of_lfs_pointer(kPointer).find("git lfs pull"), std::string::npos);
    for (const std::string& other :
         {std::string(), std::string("{}"), std::string("version https://x/spec/v1\n"),
          kPointer + std::string(1024, ' '), " " + kPointer}) {
        EXPECT_EQ(fault_of_lfs_pointer(other), "") << other;
    }
}

TEST(LfsPointer, InsteadOfAJsonFileIsNamed) {
    const test::TempDir folder;
    test::write_file(folder / "config.json", kPointer);
    try {
        read_json_file(folder / "config.json");
        FAIL();
    } catch (const ConfigError& error) {
        EXPECT_NE(std::string(error.what()).find("config.json: is a Git LFS pointer"), std::string::npos);
    }
}

}  // namespace
}  // namespace qlora
