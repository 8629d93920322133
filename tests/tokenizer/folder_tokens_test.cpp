#include "tokenizer/folder_tokens.h"

#include <gtest/gtest.h>

#include <string>

#include "support/temp_dir.h"
#include "tiny_tokenizer.h"

namespace qlora::tokenizer {
namespace {

using Ids = std::vector<TokenId>;
constexpr EncodeOptions kReadsSpecial{true, false};

// tiny_json with two added tokens, in bytes; every character that has no token is dropped.
class FolderTokensTest : public testing::Test {
  protected:
    FolderTokensTest() {
        Json json = tiny_json();
        json["pre_tokenizer"] =
            json_of(R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true})");
        json["added_tokens"] = Json::array({added_token(9, "<end>", true), added_token(10, "<tool>", false)});
        write("tokenizer.json", json.dump());
    }
    void write(const char* name, const std::string& text) { test::write_file(folder_ / name, text); }
    std::unique_ptr<Tokenizer> load() { return load_tokenizer(folder_.path()); }
    std::string refusal() {
        try {
            load();
        } catch (const CheckpointError& error) {
            return error.what();
        }
        return "";
    }

    test::TempDir folder_;
};

TEST_F(FolderTokensTest, FlagsOfTheConfigurationGoBeforeThoseOfTheVocabulary) {
    EXPECT_EQ(load()->encode("a <tool> b", {}), (Ids{0, 3, 10, 3, 1}));
    write("tokenizer_config.json", R"({"added_tokens_decoder": {
        "10": {"content": "<tool>", "lstrip": true, "rstrip": true, "special": true},
        "9": {"content": "<end>", "rstrip": true, "special": false}}})");
    const auto tokenizer = load();
    EXPECT_EQ(tokenizer->encode("a <tool> b <end> c", kReadsSpecial), (Ids{0, 10, 1, 3, 9, 2}));
    EXPECT_TRUE(tokenizer->is_special(10));
    EXPECT_TRUE(tokenizer->is_special(9));  // once special, always special
}

TEST_F(FolderTokensTest, TokensThatTheVocabularyFileLacksAreAddedBehindIt) {
    write("tokenizer_config.json", R"({"added_tokens_decoder": {
        "12": {"content": "<b>", "special": true}, "11": {"content": "<a>"}, "8": {"content": "abc"}},
        "extra_special_tokens": ["<c>", "<b>"], "pad_token": "<pad>", "image_token": "<image>",
        "additional_special_tokens": ["<ignored>"], "add_bos_token": true})");
    const auto tokenizer = load();
    EXPECT_EQ(tokenizer->encode("<a><b><c><pad><image>", kReadsSpecial), (Ids{11, 12, 15, 13, 14}));
    EXPECT_EQ(tokenizer->encode("cabcc", kReadsSpecial), (Ids{2, 8, 2}));
    EXPECT_EQ(tokenizer->vocab_size(), 16);
    EXPECT_FALSE(tokenizer->is_special(11));
    EXPECT_TRUE(tokenizer->is_special(12) && tokenizer->is_special(15));
    EXPECT_EQ(tokenizer->token_to_id("<ignored>"), std::nullopt);
}

TEST_F(FolderTokensTest, WithoutAListTheOlderFilesCount) {
    write("added_tokens.json", R"({"<think>": 11, "<tool>": 10, "<s>": 12})");
    write("special_tokens_map.json",
          R"({"bos_token": {"content": "<s>", "lstrip": false}, "additional_special_tokens": ["bc"]})");
    const auto tokenizer = load();
    EXPECT_EQ(tokenizer->encode("<think>a<s>", kReadsSpecial), (Ids{11, 0, 12}));
    EXPECT_TRUE(tokenizer->is_special(12));
    EXPECT_FALSE(tokenizer->is_special(11) || tokenizer->is_special(10));
    EXPECT_TRUE(tokenizer->is_special(7));  // a token of the model that is listed as special
    write("tokenizer_config.json", R"({"added_tokens_decoder": {}})");
    EXPECT_EQ(load()->token_to_id("<think>"), std::nullopt);
}

TEST_F(FolderTokensTest, IdsThatContradictTheVocabularyAreListedTogether) {
    write("tokenizer_config.json", R"({"added_tokens_decoder": {
        "12": {"content": "<gap>"}, "3": {"content": "<end>"}, "0": {"content": "b"}, "x": {}, "20": {}}})");
    const std::string message = refusal();
    for (const char* part : {"5 faults", "added_tokens_decoder.12: the id of '<gap>' must be 11",
                             "added_tokens_decoder.3: '<end>' has the id 9 in tokenizer.json, not 3",
                             "added_tokens_decoder.0: the id 0 of 'b' belongs to 'a'",
                             "added_tokens_decoder.x: the key must be an id",
                             "added_tokens_decoder.20: the content is missing"}) {
        EXPECT_NE(message.find(part), std::string::npos) << part << " in " << message;
    }
}

TEST_F(FolderTokensTest, ARefusedFileBesideASentencepieceModelSaysSo) {
    write("tokenizer.json", R"({"model": {"type": "Unigram"}})");
    EXPECT_EQ(refusal().find("tokenizer.model"), std::string::npos);
    write("tokenizer.model", "a model that only goes second");
    const std::string message = refusal();
    EXPECT_NE(message.find("'Unigram' is not supported"), std::string::npos) << message;
    EXPECT_NE(message.find("tokenizer.model is read instead"), std::string::npos) << message;
}

}  // namespace
}  // namespace qlora::tokenizer
