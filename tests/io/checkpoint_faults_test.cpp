#include <gtest/gtest.h>

#include <functional>

#include "io/model_folder.h"
#include "qlora/core/error.h"
#include "qlora/io/checkpoint.h"

namespace qlora::io {
namespace {

using namespace qlora::io::test;
using qlora::test::read_file;
using qlora::test::write_file;

namespace fs = std::filesystem;

struct WrongFolder {
    std::string what;
    std::function<void(ModelFolder&)> spoil;  ///< of a whole model in three shards
    std::vector<std::string> phrases;         ///< each must stand in the message
};

const std::string kQ2 = "layers.2.q.weight";

void empty_the_folder(ModelFolder& model) {
    for (const auto& entry : fs::directory_iterator(model.dir.path())) fs::remove(entry.path());
}

void name_shard(ModelFolder& model, const std::string& name) {
    auto map = ModelFolder::weight_map();
    map[kQ2] = name;
    model.write_index(map);
}

void cut(const fs::path& file, std::size_t bytes) {
    fs::resize_file(file, fs::file_size(file) - bytes);
}

std::vector<WrongFolder> wrong_folders() {
    const std::string one = ModelFolder::shard(1), two = ModelFolder::shard(2), three = ModelFolder::shard(3);
    const auto in = [](ModelFolder& model, const std::string& name) { return model.dir / name; };
    return {
        {"empty folder", empty_the_folder, {"empty folder"}},
        {"other files only",
         [](ModelFolder& m) {
             empty_the_folder(m);
             write_file(m.dir / "notes.txt", "x");
         },
         {"neither", "right folder"}},
        {"pickle only",
         [](ModelFolder& m) {
             empty_the_folder(m);
             write_file(m.dir / "pytorch_model.bin", "x");
         },
         {"pytorch_model.bin", "pickle", "convert to safetensors"}},
        {"pickle shards with their index",
         [](ModelFolder& m) {
             empty_the_folder(m);
             write_file(m.dir / "pytorch_model-00001-of-00002.bin", "x");
             write_file(m.dir / "pytorch_model.bin.index.json", "{}");
         },
         {"pytorch_model-00001-of-00002.bin", "convert to safetensors"}},
        {"only .pt",
         [](ModelFolder& m) {
             empty_the_folder(m);
             write_file(m.dir / "weights.pt", "x");
         },
         {"weights.pt", "convert to safetensors"}},
        {"only .pth",
         [](ModelFolder& m) {
             empty_the_folder(m);
             write_file(m.dir / "consolidated.00.pth", "x");
         },
         {"consolidated.00.pth", "convert to safetensors"}},
        {"index lost",
         [=](ModelFolder& m) { fs::remove(in(m, ModelFolder::kIndex)); },
         {one, "without their index"}},
        {"an adapter and no base",
         [](ModelFolder& m) {
             empty_the_folder(m);
             write_sample(m.dir / "adapter_model.safetensors", {{"a", DType::kU8, {1}}});
         },
         {"is an adapter, no base model", "model.adapter"}},
        {"other weights",
         [](ModelFolder& m) {
             empty_the_folder(m);
             write_sample(m.dir / "consolidated.safetensors", {{"a", DType::kU8, {1}}});
         },
         {"consolidated.safetensors", "no base model by its name"}},
        {"first shard missing", [=](ModelFolder& m) { fs::remove(in(m, one)); }, {one, "missing"}},
        {"last shard missing", [=](ModelFolder& m) { fs::remove(in(m, three)); }, {three, "missing"}},
        {"two shards missing",
         [=](ModelFolder& m) {
             fs::remove(in(m, one));
             fs::remove(in(m, three));
         },
         {"2 faults", one, three, "missing"}},
        {"download not finished",
         [=](ModelFolder& m) { fs::rename(in(m, two), in(m, two + ".incomplete")); },
         {two, "missing"}},
        {"shard cut by a byte", [=](ModelFolder& m) { cut(in(m, two), 1); }, {two, "download cut"}},
        {"shard cut in its header",
         [=](ModelFolder& m) { fs::resize_file(in(m, one), 40); },
         {one, "download cut"}},
        {"shard empty", [=](ModelFolder& m) { fs::resize_file(in(m, one), 0); }, {one, "too short"}},
        {"shard too long",
         [=](ModelFolder& m) { write_file(in(m, two), read_file(in(m, two)) + "x"); },
         {two, "after the last tensor"}},
        {"shard is a folder",
         [=](ModelFolder& m) {
             fs::remove(in(m, two));
             fs::create_directory(in(m, two));
         },
         {two, "not a regular file"}},
        {"shard is a pointer of a large-file store",
         [=](ModelFolder& m) {
             write_file(in(m, two), "version https://example.org/spec/v1\noid sha256:00\nsize 1\n");
         },
         {two, "is a Git LFS pointer", "git lfs pull"}},
        {"index is a pointer of a large-file store",
         [=](ModelFolder& m) {
             m.write_index_text("version https://example.org/spec/v1\noid sha256:00\nsize 1\n");
         },
         {ModelFolder::kIndex, "is a Git LFS pointer"}},
        {"shards swapped",
         [=](ModelFolder& m) {
             fs::rename(in(m, one), in(m, "aside"));
             fs::rename(in(m, two), in(m, one));
             fs::rename(in(m, "aside"), in(m, two));
         },
         {"4 faults", kQ2, "it is in \"" + one + "\"", "layers.1.q.weight"}},
        {"shard duplicated over another",
         [=](ModelFolder& m) { fs::copy_file(in(m, one), in(m, two), fs::copy_options::overwrite_existing); },
         {"stands in both", "layers.1.q.weight", kQ2, "does not hold it"}},
        {"tensor dropped from its shard",
         [=](ModelFolder& m) { write_sample(in(m, two), {ModelFolder::tensors(2)[1]}); },
         {kQ2, two, "does not hold it"}},
        {"tensor renamed in its shard",
         [=](ModelFolder& m) {
             write_sample(in(m, two),
                          {{"layers.2.k.weight", DType::kF32, {4, 3}}, ModelFolder::tensors(2)[1]});
         },
         {"2 faults", "layers.2.k.weight", kQ2}},
        {"tensor added to a shard",
         [=](ModelFolder& m) {
             auto specs = ModelFolder::tensors(2);
             specs.push_back({"extra", DType::kU8, {1}});
             write_sample(in(m, two), specs);
         },
         {"\"extra\"", two, "not in " + std::string(ModelFolder::kIndex)}},
        {"tensor in two shards",
         [=](ModelFolder& m) {
             auto specs = ModelFolder::tensors(3);
             specs.push_back(ModelFolder::tensors(2)[0]);
             write_sample(in(m, three), specs);
         },
         {kQ2, "stands in both", two, three}},
        {"tensor dropped from the index",
         [](ModelFolder& m) {
             auto map = ModelFolder::weight_map();
             map.erase(kQ2);
             m.write_index(map);
         },
         {kQ2, "not in"}},
        {"tensor added to the index",
         [=](ModelFolder& m) {
             auto map = ModelFolder::weight_map();
             map["ghost"] = one;
             m.write_index(map);
         },
         {"\"ghost\"", one, "does not hold it"}},
        {"shard dropped from the index",
         [](ModelFolder& m) {
             auto map = ModelFolder::weight_map();
             for (const TensorSpec& spec : ModelFolder::tensors(2)) map.erase(spec.name);
             m.write_index(map);
         },
         {"names 2 of the 3 shards"}},
        {"index points to the wrong shard",
         [=](ModelFolder& m) { name_shard(m, three); },
         {kQ2, three, "it is in"}},
        {"parent folder in the index",
         [](ModelFolder& m) { name_shard(m, "../x.safetensors"); },
         {kQ2, "plain file name"}},
        {"folder in the index",
         [](ModelFolder& m) { name_shard(m, "sub/x.safetensors"); },
         {kQ2, "plain file name"}},
        {"own folder in the index",
         [=](ModelFolder& m) { name_shard(m, "./" + two); },
         {kQ2, "plain file name"}},
        {"absolute path in the index",
         [=](ModelFolder& m) { name_shard(m, (m.dir / two).string()); },
         {kQ2, "plain file name"}},
        {"back slashes in the index",
         [](ModelFolder& m) { name_shard(m, R"(..\\x.safetensors)"); },
         {"plain file name"}},
        {"NUL in the index",
         [=](ModelFolder& m) { name_shard(m, two + "\\u0000.safetensors"); },
         {"plain file name"}},
        {"dots in the index", [](ModelFolder& m) { name_shard(m, ".."); }, {"plain file name"}},
        {"no name in the index", [](ModelFolder& m) { name_shard(m, ""); }, {kQ2, "no name"}},
        {"pickle in the index",
         [](ModelFolder& m) { name_shard(m, "pytorch_model.bin"); },
         {"pytorch_model.bin", "convert to safetensors"}},
        {"other kind of file in the index",
         [](ModelFolder& m) { name_shard(m, "config.json"); },
         {".safetensors file"}},
        {"dangling link",
         [=](ModelFolder& m) {
             fs::remove(in(m, two));
             fs::create_symlink("gone", in(m, two));
         },
         {two, "is a link to gone, which is not there"}},
        {"dangling index",
         [=](ModelFolder& m) {
             fs::remove(in(m, ModelFolder::kIndex));
             fs::create_symlink("/nowhere/index", in(m, ModelFolder::kIndex));
         },
         {ModelFolder::kIndex, "is a link to /nowhere/index, which is not there"}},
        {"index and single file disagree", [](ModelFolder& m) { m.write_single(); }, {"which of the two"}},
        {"single file cut",
         [=](ModelFolder& m) {
             empty_the_folder(m);
             m.write_single();
             cut(in(m, "model.safetensors"), 7);
         },
         {"model.safetensors", "download cut"}},
        {"single file without tensors",
         [](ModelFolder& m) {
             empty_the_folder(m);
             write_sample(m.dir / "model.safetensors", {});
         },
         {"model.safetensors", "no tensors"}},
        {"index empty", [](ModelFolder& m) { m.write_index_text(""); }, {ModelFolder::kIndex, "not JSON"}},
        {"index cut",
         [=](ModelFolder& m) { cut(in(m, ModelFolder::kIndex), 20); },
         {ModelFolder::kIndex, "not JSON"}},
        {"index of NULs",
         [](ModelFolder& m) { m.write_index_text(std::string(100, '\0')); },
         {ModelFolder::kIndex, "NUL"}},
        {"index is a list",
         [](ModelFolder& m) { m.write_index_text("[]"); },
         {"must be an object, found an array"}},
        {"index is a number", [](ModelFolder& m) { m.write_index_text("1"); }, {"must be an object"}},
        {"no weight_map", [](ModelFolder& m) { m.write_index_text("{\"metadata\":{}}"); }, {"no weight_map"}},
        {"weight_map empty",
         [](ModelFolder& m) { m.write_index_text("{\"weight_map\":{}}"); },
         {"weight_map is empty"}},
        {"weight_map is a list",
         [](ModelFolder& m) { m.write_index_text("{\"weight_map\":[]}"); },
         {"weight_map must be an object"}},
        {"weight_map is null",
         [](ModelFolder& m) { m.write_index_text("{\"weight_map\":null}"); },
         {"weight_map must be an object"}},
        {"weight_map twice",
         [](ModelFolder& m) { m.write_index_text("{\"weight_map\":{\"a\":\"b\"},\"weight_map\":{}}"); },
         {"weight_map stands twice"}},
        {"tensor twice in the index",
         [](ModelFolder& m) { m.write_index_text("{\"weight_map\":{\"a\":\"x\",\"a\":\"x\"}}"); },
         {"\"a\"", "twice"}},
        {"shard name is a number",
         [](ModelFolder& m) { m.write_index_text("{\"weight_map\":{\"a\":1}}"); },
         {"\"a\"", "file name"}},
        {"shard name is a list",
         [](ModelFolder& m) { m.write_index_text("{\"weight_map\":{\"a\":[\"x\"]}}"); },
         {"\"a\"", "file name"}},
        {"text after the index",
         [=](ModelFolder& m) { m.write_index_text(read_file(in(m, ModelFolder::kIndex)) + "}"); },
         {ModelFolder::kIndex, "not JSON"}},
    };
}

TEST(CheckpointFaults, each_wrong_folder_is_refused_by_name) {
    const std::vector<WrongFolder> cases = wrong_folders();
    EXPECT_GE(cases.size(), 30U);
    for (const WrongFolder& wrong : cases) {
        SCOPED_TRACE(wrong.what);
        ModelFolder model;
        model.write_shards();
        ASSERT_NO_THROW(Checkpoint(model.dir.path()));
        wrong.spoil(model);
        const fs::path folder = model.dir.path();
        try {
            const Checkpoint checkpoint(folder);
            ADD_FAILURE() << "accepted";
        } catch (const CheckpointError& error) {
            const std::string message = error.what();
            EXPECT_EQ(message.find(folder.string()), 0U) << message;
            for (const std::string& phrase : wrong.phrases) {
                EXPECT_NE(message.find(phrase), std::string::npos) << "no " << phrase << " in: " << message;
            }
        }
    }
}

TEST(CheckpointFaults, faults_of_different_kinds_are_told_together) {
    ModelFolder model;
    model.write_shards();
    fs::remove(model.dir / ModelFolder::shard(1));
    cut(model.dir / ModelFolder::shard(2), 1);
    auto map = ModelFolder::weight_map();
    map["outside"] = "/etc/x.safetensors";
    map["ghost"] = ModelFolder::shard(3);
    model.write_index(map);
    try {
        const Checkpoint checkpoint(model.dir.path());
        FAIL();
    } catch (const CheckpointError& error) {
        const std::string message = error.what();
        for (const std::string& phrase :
             {std::string("4 faults"), ModelFolder::shard(1), ModelFolder::shard(2),
              std::string("\"outside\""), std::string("\"ghost\"")}) {
            EXPECT_NE(message.find(phrase), std::string::npos) << "no " << phrase << " in: " << message;
        }
    }
}

TEST(CheckpointFaults, long_lists_are_cut_and_counted) {
    ModelFolder model;
    model.write_shards();
    auto map = ModelFolder::weight_map();
    for (int i = 0; i < 1000; ++i) map["ghost." + std::to_string(i)] = ModelFolder::shard(1);
    model.write_index(map);
    try {
        const Checkpoint checkpoint(model.dir.path());
        FAIL();
    } catch (const CheckpointError& error) {
        const std::string message = error.what();
        EXPECT_NE(message.find("1000 faults"), std::string::npos) << message;
        EXPECT_NE(message.find("and 980 more"), std::string::npos) << message;
        EXPECT_LT(std::count(message.begin(), message.end(), '\n'), 25);
    }
}

TEST(CheckpointFaults, what_is_no_folder_is_refused) {
    ModelFolder model;
    write_file(model.dir / "file", "x");
    for (const fs::path& path : {model.dir / "missing", model.dir / "file"}) {
        try {
            const Checkpoint checkpoint(path);
            FAIL();
        } catch (const CheckpointError& error) {
            EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos);
        }
    }
}

}  // namespace
}  // namespace qlora::io
