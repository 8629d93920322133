#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "io/model_folder.h"
#include "qlora/core/json.h"
#include "qlora/io/checkpoint.h"

namespace qlora::io {
namespace {

using namespace qlora::io::test;
using qlora::test::read_file;
using qlora::test::write_file;

/// A model whose files have stood still long enough.
class KeptFingerprint : public testing::Test {
  protected:
    KeptFingerprint() {
        model_.write_shards();
        std::this_thread::sleep_for(std::chrono::milliseconds(2050));
    }
    std::string get() const { return Checkpoint(model_.dir.path()).fingerprint_kept_in(file_, 0); }
    /// What stands in the file is made wrong, so that it shows whether it is believed.
    void spoil(const std::string& key, const Json& value) {
        Json kept = parse_json(read_file(file_), "kept");
        (key == "fingerprint" ? kept[key] : kept["files"][1][key]) = value;
        write_file(file_, kept.dump());
    }

    ModelFolder model_;
    std::filesystem::path file_ = model_.dir / "kept.json";
};

const std::string kWrong(32, 'a');

TEST_F(KeptFingerprint, is_read_as_long_as_no_file_differs) {
    const std::string right = Checkpoint(model_.dir.path()).fingerprint();
    EXPECT_EQ(get(), right);
    ASSERT_TRUE(std::filesystem::exists(file_));
    spoil("fingerprint", kWrong);
    EXPECT_EQ(get(), kWrong) << "it was hashed again";
    const Checkpoint checkpoint(model_.dir.path());
    ASSERT_EQ(checkpoint.fingerprint_kept_in(file_, 0), kWrong);
    EXPECT_EQ(checkpoint.fingerprint(), kWrong) << "who asks later gets the same";
    // Other files than it was written for, one fact after the other.
    for (const char* fact : {"path", "device", "inode", "size", "modified_ns", "changed_ns"}) {
        get();
        spoil("fingerprint", kWrong);
        spoil(fact, 5);
        EXPECT_EQ(get(), right) << fact;
        EXPECT_EQ(parse_json(read_file(file_), "kept").at("fingerprint"), right) << "not replaced";
    }
    // What is no fingerprint, or no JSON.
    for (const Json& value : {Json(5), Json("abc"), Json(nullptr), Json(std::string(32, 'x'))}) {
        spoil("fingerprint", value);
        EXPECT_EQ(get(), right);
    }
    write_file(file_, "{ not json");
    EXPECT_EQ(get(), right);
}

TEST_F(KeptFingerprint, a_written_shard_is_hashed_again) {
    const std::string before = get();
    const auto shard = model_.dir / ModelFolder::shard(2);
    const auto time = std::filesystem::last_write_time(shard);
    std::string bytes = read_file(shard);
    bytes.back() ^= 1;
    write_file(shard, bytes);
    std::filesystem::last_write_time(shard, time);  // as a copying tool would set it
    const std::string after = get();
    EXPECT_NE(after, before);
    EXPECT_EQ(after, Checkpoint(model_.dir.path()).fingerprint());
    // Just written: a further write might leave the times as they are.
    EXPECT_EQ(parse_json(read_file(file_), "kept").at("fingerprint"), before);
}

TEST_F(KeptFingerprint, small_models_and_folders_that_cannot_be_written) {
    const Checkpoint checkpoint(model_.dir.path());
    EXPECT_EQ(checkpoint.fingerprint_kept_in(file_), checkpoint.fingerprint());
    EXPECT_FALSE(std::filesystem::exists(file_)) << "such a small one";
    const Checkpoint again(model_.dir.path());
    EXPECT_EQ(again.fingerprint_kept_in(model_.dir / "none" / "kept.json", 0), checkpoint.fingerprint());
}

}  // namespace
}  // namespace qlora::io
