#include "qlora/io/checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "io/model_folder.h"
#include "qlora/core/error.h"
#include "qlora/core/hash.h"

namespace qlora::io {
namespace {

using namespace qlora::io::test;
using qlora::test::read_file;
using qlora::test::write_file;

TEST(Checkpoint, metadata_counts_when_all_shards_say_it_alike) {
    ModelFolder model;
    model.write_shards();
    EXPECT_EQ(Checkpoint(model.dir.path()).metadata("from"), std::nullopt);
    for (int number = 1; number <= 3; ++number) {
        EXPECT_EQ(Checkpoint(model.dir.path()).metadata("from"), std::nullopt) << "not in all";
        write_sample(model.dir / ModelFolder::shard(number), ModelFolder::tensors(number), 10 * number,
                     {{"from", "here"}});
    }
    EXPECT_EQ(Checkpoint(model.dir.path()).metadata("from"), "here");
    write_sample(model.dir / ModelFolder::shard(2), ModelFolder::tensors(2), 20, {{"from", "there"}});
    EXPECT_EQ(Checkpoint(model.dir.path()).metadata("from"), std::nullopt);
}

TEST(Checkpoint, shards_and_single_file_hold_the_same_tensors) {
    ModelFolder sharded, single;
    sharded.write_shards();
    single.write_single();
    const Checkpoint a(sharded.dir.path());
    const Checkpoint b(single.dir.path());
    EXPECT_EQ(a.shards().size(), 3U);
    EXPECT_EQ(b.shards().size(), 1U);
    EXPECT_EQ(a.folder(), sharded.dir.path());
    EXPECT_EQ(a.names(), b.names());
    EXPECT_EQ(a.names().size(), 6U);
    EXPECT_TRUE(std::is_sorted(a.names().begin(), a.names().end()));
    for (const std::string& name : a.names()) {
        EXPECT_TRUE(a.contains(name));
        EXPECT_EQ(a.at(name).shape, b.at(name).shape);
        EXPECT_TRUE(std::ranges::equal(a.at(name).bytes, b.at(name).bytes)) << name;
        a.release(name);
        EXPECT_TRUE(std::ranges::equal(a.at(name).bytes, b.at(name).bytes)) << name;
    }
    EXPECT_EQ(a.shards()[1].path().filename(), ModelFolder::shard(2));
}

TEST(Checkpoint, moved_checkpoint_keeps_its_tensors) {
    ModelFolder model;
    model.write_shards();
    Checkpoint first(model.dir.path());
    const std::string before = first.fingerprint();
    const Checkpoint second(std::move(first));
    EXPECT_EQ(second.fingerprint(), before);
}

TEST(Checkpoint, other_files_and_keys_do_not_matter) {
    ModelFolder model;
    model.write_shards();
    write_file(model.dir / "pytorch_model.bin", "pickle, never opened");
    write_file(model.dir / "adapter_model.safetensors", "not part of the model");
    write_file(model.dir / "config.json", "{}");
    std::string index = read_file(model.dir / ModelFolder::kIndex);
    index.insert(1, R"("note": [1, -2, 2.5, null, true, {"weight_map": {"x": 1}}, "text"],)");
    model.write_index_text(index);
    EXPECT_EQ(Checkpoint(model.dir.path()).names().size(), 6U);
}

TEST(Checkpoint, index_may_name_the_single_file) {
    ModelFolder model;
    model.write_single();
    auto map = ModelFolder::weight_map();
    for (auto& [tensor, file] : map) file = "model.safetensors";
    model.write_index(map);
    EXPECT_EQ(Checkpoint(model.dir.path()).names().size(), 6U);
}

TEST(Checkpoint, links_of_the_users_own_folder_are_followed) {
    ModelFolder model;
    model.write_shards();
    const auto cache = model.dir / "cache" / "models--a--b";
    std::filesystem::create_directories(cache / "blobs");
    std::filesystem::create_directories(cache / "snapshots" / "0123abc");
    for (const std::string& name : {ModelFolder::shard(1), ModelFolder::shard(2), ModelFolder::shard(3),
                                    std::string(ModelFolder::kIndex)}) {
        std::filesystem::copy_file(model.dir / name, cache / "blobs" / ("sha-of-" + name));
        std::filesystem::create_symlink("../../blobs/sha-of-" + name, cache / "snapshots" / "0123abc" / name);
    }
    EXPECT_EQ(Checkpoint(cache / "snapshots" / "0123abc").fingerprint(),
              Checkpoint(model.dir.path()).fingerprint());

    std::filesystem::rename(model.dir / ModelFolder::shard(1), model.dir / "elsewhere");
    std::filesystem::create_symlink("elsewhere", model.dir / ModelFolder::shard(1));
    EXPECT_EQ(Checkpoint(model.dir.path()).names().size(), 6U);

    std::filesystem::create_directory_symlink(model.dir.path(), cache / "link-to-folder");
    EXPECT_EQ(Checkpoint(cache / "link-to-folder").names().size(), 6U);

    // Shards kept once for several folders, as on clusters.
    const auto store = model.dir / "store", linked = model.dir / "linked";
    std::filesystem::create_directories(store);
    std::filesystem::create_directories(linked);
    for (const std::string& name : {ModelFolder::shard(1), ModelFolder::shard(2), ModelFolder::shard(3),
                                    std::string(ModelFolder::kIndex)}) {
        std::filesystem::copy_file(model.dir / name, store / name);
        std::filesystem::create_symlink(store / name, linked / name);
    }
    EXPECT_EQ(Checkpoint(linked).fingerprint(), Checkpoint(model.dir.path()).fingerprint());
}

TEST(Checkpoint, absent_tensor_is_named) {
    ModelFolder model;
    model.write_single();
    const Checkpoint checkpoint(model.dir.path());
    EXPECT_FALSE(checkpoint.contains("gone"));
    for (const auto& ask : std::vector<std::function<void()>>{[&] { checkpoint.at("gone"); },
                                                              [&] { checkpoint.release("gone"); }}) {
        try {
            ask();
            FAIL();
        } catch (const CheckpointError& error) {
            const std::string message = error.what();
            EXPECT_EQ(message.find(model.dir.path().string()), 0U);
            EXPECT_NE(message.find("\"gone\""), std::string::npos);
        }
    }
}

TEST(Checkpoint, fingerprint_does_not_depend_on_the_sharding) {
    ModelFolder sharded, single;
    sharded.write_shards();
    single.write_single();
    EXPECT_EQ(Checkpoint(sharded.dir.path()).fingerprint(), Checkpoint(single.dir.path()).fingerprint());
}

TEST(Checkpoint, fingerprint_is_the_documented_hash) {
    ModelFolder model;
    SafetensorsWriter writer(model.dir / "model.safetensors",
                             {{"b", DType::kU8, {3}}, {"a", DType::kBF16, {2, 1}}}, {});
    writer.append(sample_bytes(3, 1));
    writer.append(sample_bytes(4, 2));
    writer.finish();
    Xxh3 hash;
    hash.update(length_field(2));
    hash.update(length_field(1) + "a" + length_field(4) + "BF16" + length_field(2) + length_field(2) +
                length_field(1) + length_field(4));
    hash.update(sample_bytes(4, 2));
    hash.update(length_field(1) + "b" + length_field(2) + "U8" + length_field(1) + length_field(3) +
                length_field(3));
    hash.update(sample_bytes(3, 1));
    EXPECT_EQ(Checkpoint(model.dir.path()).fingerprint(), hash.hex());
}

TEST(Checkpoint, fingerprint_sees_name_dtype_shape_and_every_byte) {
    struct Variant {
        std::vector<TensorSpec> specs;
        unsigned seed;
    };
    const std::vector<Variant> variants = {
        {{{"a", DType::kF32, {4}}}, 1},
        {{{"a", DType::kF32, {4}}}, 2},
        {{{"b", DType::kF32, {4}}}, 1},
        {{{"a", DType::kI32, {4}}}, 1},
        {{{"a", DType::kF32, {2, 2}}}, 1},
        {{{"a", DType::kF32, {4, 1}}}, 1},
        {{{"a", DType::kF32, {4}}, {"b", DType::kU8, {0}}}, 1},
        {{{"a", DType::kF32, {4}}, {"b", DType::kU8, {0, 1}}}, 1},
        {{{"a", DType::kF32, {4}}, {"bU", DType::kU8, {0}}}, 1},
    };
    std::set<std::string> seen;
    for (const Variant& variant : variants) {
        ModelFolder model;
        write_sample(model.dir / "model.safetensors", variant.specs, variant.seed, {{"any", "metadata"}});
        EXPECT_TRUE(seen.insert(Checkpoint(model.dir.path()).fingerprint()).second);
    }
    ModelFolder model;
    write_sample(model.dir / "model.safetensors", variants[0].specs, 1);
    EXPECT_TRUE(seen.contains(Checkpoint(model.dir.path()).fingerprint())) << "metadata must not matter";
    const std::string whole = read_file(model.dir / "model.safetensors");
    for (std::size_t bit = 0; bit < 16 * 8; ++bit) {
        std::string flipped = whole;
        char& byte = flipped[whole.size() - 16 + bit / 8];
        byte = static_cast<char>(byte ^ (1 << bit % 8));
        write_file(model.dir / "model.safetensors", flipped);
        EXPECT_TRUE(seen.insert(Checkpoint(model.dir.path()).fingerprint()).second) << bit;
    }
}

}  // namespace
}  // namespace qlora::io
