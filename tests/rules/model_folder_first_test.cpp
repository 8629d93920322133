#include <gtest/gtest.h>

#include <string>

#include "qlora/core/error.h"
#include "qlora/models/decoder_spec.h"
#include "support/temp_dir.h"

namespace qlora::models {
namespace {

std::string refusal_of(const std::filesystem::path& folder) {
    try {
        load_decoder_spec(folder);
    } catch (const CheckpointError& error) {
        return error.what();
    }
    return "accepted";
}

TEST(ModelConfigFile, a_missing_one_says_what_the_folder_is_instead) {
    const test::TempDir dir;
    EXPECT_NE(refusal_of(dir.path()).find("is an empty folder"), std::string::npos) << refusal_of(dir.path());
    EXPECT_EQ(refusal_of(dir.path() / "none"), "there is no " + (dir.path() / "none").string());
}

}  // namespace
}  // namespace qlora::models
