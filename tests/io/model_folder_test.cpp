#include "qlora/io/model_folder.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>

#include "qlora/core/error.h"
#include "support/temp_dir.h"

namespace qlora::io {
namespace {

namespace fs = std::filesystem;
using qlora::test::TempDir;
using qlora::test::write_file;

struct Mistake {
    const char* what;
    /// Makes it inside an empty folder and returns what the user gives as the model.
    std::function<fs::path(const fs::path&)> make;
    std::vector<std::string> phrases;
};

void write(const fs::path& file, const std::string& text = "x") {
    fs::create_directories(file.parent_path());
    write_file(file, text);
}

std::vector<Mistake> mistakes() {
    return {
        {"a name on the hub",
         [](const fs::path& home) { return home / "meta-llama/Llama-3.2-1B"; },
         {"there is no ", "meta-llama/Llama-3.2-1B is a name on the Hugging Face Hub", "hf download"}},
        {"a path that is missing",
         [](const fs::path& home) { return home / "missing"; },
         {"there is no ", "/missing"}},
        {"the cache's folder above the snapshot",
         [](const fs::path& home) {
             write(home / "models--a--b/snapshots/0123/config.json");
             write(home / "models--a--b/snapshots/4567/config.json");
             write(home / "models--a--b/refs/main", "4567\n");
             write(home / "models--a--b/blobs/sha");
             return home / "models--a--b";
         },
         {"is a folder of the Hugging Face cache", "models--a--b/snapshots/4567"}},
        {"a folder above the model",
         [](const fs::path& home) {
             write(home / "outer/model/config.json");
             return home / "outer";
         },
         {"has no config.json, but its folder \"model\" has one", "give ", "outer/model"}},
        {"an adapter",
         [](const fs::path& home) {
             write(home / "adapter/adapter_config.json", R"({"base_model_name_or_path": "org/base"})");
             write(home / "adapter/adapter_model.safetensors");
             write(home / "adapter/tokenizer.json");
             return home / "adapter";
         },
         {"is an adapter, no base model", "model.adapter", "org/base"}},
        {"a tilde that the shell left",
         [](const fs::path&) { return fs::path("~/models/llama"); },
         {"there is no ~/models/llama", "the shell replaces ~"}},
        {"the weights instead of their folder",
         [](const fs::path& home) {
             write(home / "model/config.json");
             write(home / "model/model.safetensors");
             return home / "model/model.safetensors";
         },
         {"is a file", "give ", "/model"}},
        {"some file",
         [](const fs::path& home) {
             write(home / "notes.txt");
             return home / "notes.txt";
         },
         {"notes.txt is a file", "a folder in Hugging Face's form is needed"}},
        {"a GGUF file",
         [](const fs::path& home) {
             write(home / "llama.Q4_K_M.gguf");
             return home / "llama.Q4_K_M.gguf";
         },
         {"is a GGUF file", "*.safetensors"}},
        {"GGUF only",
         [](const fs::path& home) {
             write(home / "model/llama.Q4_K_M.gguf");
             return home / "model";
         },
         {"only GGUF (\"llama.Q4_K_M.gguf\")"}},
        {"pickles only",
         [](const fs::path& home) {
             write(home / "model/config.json");
             write(home / "model/pytorch_model.bin");
             return home / "model";
         },
         {"only pickle files (\"pytorch_model.bin\")", "convert to safetensors first"}},
        {"a pickle file",
         [](const fs::path& home) {
             write(home / "model/pytorch_model.bin");
             return home / "model/pytorch_model.bin";
         },
         {"is a pickle file", "convert to safetensors first"}},
        {"an empty folder",
         [](const fs::path& home) {
             fs::create_directories(home / "model");
             return home / "model";
         },
         {"is an empty folder"}},
        {"weights without their settings",
         [](const fs::path& home) {
             write(home / "model/model.safetensors");
             return home / "model";
         },
         {"has no config.json"}},
        {"a link that leads nowhere",
         [](const fs::path& home) {
             fs::create_directory_symlink("/gone/model", home / "model");
             return home / "model";
         },
         {"is a link to /gone/model, which is not there"}},
        {"settings that are a link that leads nowhere",
         [](const fs::path& home) {
             write(home / "model/model.safetensors");
             fs::create_symlink("../blobs/sha", home / "model/config.json");
             return home / "model";
         },
         {"config.json: is a link to ../blobs/sha, which is not there"}},
    };
}

TEST(ModelFolder, EachMistakeGetsItsOwnSentence) {
    ::setenv("HF_HUB_CACHE", "/nowhere", 1);
    for (const Mistake& mistake : mistakes()) {
        SCOPED_TRACE(mistake.what);
        const TempDir home;
        const fs::path given = mistake.make(home.path());
        const std::string fault = fault_of_model_folder(given);
        EXPECT_NE(fault.find(given.string()), std::string::npos) << fault;
        EXPECT_EQ(fault.find('\n'), std::string::npos) << fault;
        for (const std::string& phrase : mistake.phrases)
            EXPECT_NE(fault.find(phrase), std::string::npos) << "no " << phrase << " in: " << fault;
        EXPECT_THROW(require_model_folder(given), CheckpointError);
    }
}

TEST(ModelFolder, AMissingFolderThatIsNoHubNameGetsNoHint) {
    const TempDir home;
    EXPECT_EQ(fault_of_model_folder(home / "missing"), "there is no " + (home / "missing").string());
    fs::create_directories(home / "org");
    EXPECT_EQ(fault_of_model_folder(home / "org/name").find("Hub"), std::string::npos);
    EXPECT_EQ(fault_of_model_folder(home / "a/b/c").find("Hub"), std::string::npos);
}

TEST(ModelFolder, AHubNameThatTheCacheHoldsIsShownThere) {
    const TempDir home;
    write(home / "cache/models--org--name/snapshots/0123/config.json");
    ::setenv("HF_HUB_CACHE", (home / "cache").c_str(), 1);
    const std::string fault = fault_of_model_folder(home / "org/name");
    EXPECT_NE(fault.find("give " + (home / "cache/models--org--name/snapshots/0123").string()),
              std::string::npos)
        << fault;
}

TEST(ModelFolder, AWholeFolderHasNoFaultAlsoBehindLinks) {
    const TempDir home;
    write(home / "model/config.json");
    write(home / "model/model.safetensors.index.json");
    EXPECT_EQ(fault_of_model_folder(home / "model"), "");
    fs::create_directory_symlink(home / "model", home / "link");
    EXPECT_EQ(fault_of_model_folder(home / "link"), "");
    EXPECT_NO_THROW(require_model_folder(home / "link"));
}

}  // namespace
}  // namespace qlora::io
