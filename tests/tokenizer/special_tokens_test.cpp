#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "support/temp_dir.h"
#include "tiny_tokenizer.h"

namespace qlora::tokenizer {
namespace {

class SpecialTokensTest : public testing::Test {
  protected:
    SpecialTokensTest() {
        Json json = tiny_json();
        json["added_tokens"] = Json::array(
            {added_token(9, "<s>", true), added_token(10, "</s>", true), added_token(11, "<pad>", true)});
        write("tokenizer.json", json.dump());
    }
    void write(const char* name, const std::string& text) { test::write_file(folder_ / name, text); }
    SpecialTokens load() { return load_special_tokens(folder_.path(), *load_tokenizer(folder_.path())); }

    test::TempDir folder_;
};

TEST_F(SpecialTokensTest, NamesInTokenizerConfigComeFirst) {
    write("tokenizer_config.json",
          R"({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null})");
    write("generation_config.json", R"({"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 11})");
    const SpecialTokens tokens = load();
    EXPECT_EQ(tokens.bos, 9);
    EXPECT_EQ(tokens.eos, 10);
    EXPECT_EQ(tokens.pad, 11);
}

TEST_F(SpecialTokensTest, TheMapGoesBeforeTheConfigUnlessThatListsAddedTokens) {
    write("special_tokens_map.json", R"({"eos_token": {"content": "<s>"}})");
    write("tokenizer_config.json", R"({"eos_token": "</s>"})");
    EXPECT_EQ(load().eos, 9);
    write("tokenizer_config.json", R"({"eos_token": "</s>", "added_tokens_decoder": {}})");
    EXPECT_EQ(load().eos, 10);
}

TEST_F(SpecialTokensTest, IdsOfTheModelFillWhatHasNoName) {
    write("generation_config.json", R"({"eos_token_id": [10, 11]})");
    write("config.json", R"({"bos_token_id": 9, "eos_token_id": 3, "pad_token_id": -1})");
    const SpecialTokens tokens = load();
    EXPECT_EQ(tokens.bos, 9);
    EXPECT_EQ(tokens.eos, 10);  // generation_config.json goes before config.json; the first of a list
    EXPECT_EQ(tokens.pad, std::nullopt);
}

TEST_F(SpecialTokensTest, AnEndTokenThatTheVocabularyLacksIsAFault) {
    write("tokenizer_config.json", R"({"eos_token": "<eos>", "bos_token": "<bos>", "pad_token": "<none>"})");
    try {
        load();
        FAIL() << "accepted";
    } catch (const CheckpointError& error) {
        const std::string message = error.what();
        EXPECT_NE(message.find("'<eos>'"), std::string::npos) << message;
        EXPECT_NE(message.find("'<bos>'"), std::string::npos) << message;
        EXPECT_EQ(message.find("'<none>'"), std::string::npos) << message;
    }
}

TEST_F(SpecialTokensTest, FilesToCopyAreThoseThatExist) {
    write("merges.txt", "");
    write("chat_template.jinja", "");
    write("config.json", "{}");
    std::vector<std::string> names;
    for (const auto& file : tokenizer_files(folder_.path())) names.push_back(file.filename().string());
    std::sort(names.begin(), names.end());
    EXPECT_EQ(names, (std::vector<std::string>{"chat_template.jinja", "merges.txt", "tokenizer.json"}));
}

TEST_F(SpecialTokensTest, AFileThatIsALinkToNowhereIsNamedWhereverItIsRead) {
    for (const char* name : {"special_tokens_map.json", "tokenizer_config.json", "generation_config.json"}) {
        std::filesystem::create_symlink("../blobs/gone", folder_ / name);
        try {
            load();
            FAIL() << name << " was passed over";
        } catch (const CheckpointError& error) {
            const std::string message = error.what();
            EXPECT_NE(message.find(std::string(name) + ": is a link to ../blobs/gone"), std::string::npos)
                << message;
        }
        std::filesystem::remove(folder_ / name);
    }
    std::filesystem::create_symlink("../blobs/gone", folder_ / "merges.txt");
    EXPECT_THROW(tokenizer_files(folder_.path()), CheckpointError);
    std::filesystem::remove(folder_ / "tokenizer.json");
    std::filesystem::create_symlink("../blobs/gone", folder_ / "tokenizer.json");
    write("tokenizer.model", "another vocabulary, which is not the one that is meant");
    EXPECT_THROW(load_tokenizer(folder_.path()), CheckpointError);
}

TEST_F(SpecialTokensTest, TheFingerprintIsThatOfTheVocabularyFile) {
    const std::string before = tokenizer_fingerprint(folder_.path());
    EXPECT_EQ(before, hash_file(folder_ / "tokenizer.json"));
    write("tokenizer.model", "another vocabulary, which tokenizer.json goes before");
    EXPECT_EQ(tokenizer_fingerprint(folder_.path()), before);
    write("tokenizer.json", tiny_json().dump());
    EXPECT_NE(tokenizer_fingerprint(folder_.path()), before);
}

TEST(LoadTokenizer, AFolderWithoutAVocabularyIsRefusedWithAdvice) {
    const test::TempDir folder;
    EXPECT_THROW(load_tokenizer(folder.path()), CheckpointError);
    for (const auto& [file, advice] :
         {std::pair("tekken.json", "tekken.json"), std::pair("vocab.json", "merges.txt")}) {
        test::write_file(folder / file, "{}");
        try {
            load_tokenizer(folder.path());
            FAIL() << "accepted";
        } catch (const CheckpointError& error) {
            EXPECT_NE(std::string(error.what()).find(advice), std::string::npos) << error.what();
        }
    }
}

TEST(LoadTokenizer, BrokenFilesAreCheckpointErrors) {
    const test::TempDir folder;
    for (const char* text : {"", "[]", "{", "{\"model\": 1}", "{\"version\": \"1.0\"}"}) {
        test::write_file(folder / "tokenizer.json", text);
        EXPECT_THROW(load_tokenizer(folder.path()), CheckpointError) << text;
    }
}

}  // namespace
}  // namespace qlora::tokenizer
