#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "qlora/core/error.h"
#include "qlora/tokenizer/tokenizer.h"
#include "support/temp_dir.h"

namespace qlora::tokenizer {
namespace {

using Ids = std::vector<TokenId>;
constexpr EncodeOptions kParseSpecial{true, false};
constexpr EncodeOptions kAdd{false, true};

// The few parts of a sentencepiece model in protobuf's wire format.
std::string field(int number, const std::string& bytes) {
    return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
}
std::string field(int number, int value) {
    return std::string{static_cast<char>(number << 3), static_cast<char>(value)};
}
std::string piece(const std::string& text, float score, int type) {
    std::string bits(4, '\0');
    std::memcpy(bits.data(), &score, sizeof score);
    return field(1, field(1, text) + (static_cast<char>(2 << 3 | 5) + bits) + field(3, type));
}

constexpr int kNormal = 1;
constexpr int kUnknown = 2;
constexpr int kControl = 3;

// BPE with ids: <unk> 0, <s> 1, </s> 2, [INST] 3, ▁ 4, a 5, b 6, ab 7, ▁ab 8.
std::string tiny_model() {
    std::string model = piece("<unk>", 0, kUnknown) + piece("<s>", 0, kControl) + piece("</s>", 0, kControl) +
                        piece("[INST]", 0, kControl);
    float score = 0;
    for (const char* text : {"▁", "a", "b", "ab", "▁ab"}) model += piece(text, score -= 1, kNormal);
    model += field(2, field(3, 2));  // trainer_spec: model_type BPE
    model += field(3, field(1, std::string("identity")) + field(3, 1) + field(4, 0) + field(5, 1));
    return model;
}

class SentencePieceTest : public testing::Test {
  protected:
    SentencePieceTest() { write("tokenizer.model", tiny_model()); }
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

TEST_F(SentencePieceTest, EncodesAndDecodes) {
    const auto tokenizer = load();
    EXPECT_EQ(tokenizer->encode("ab ab"), (Ids{8, 8}));
    EXPECT_EQ(tokenizer->decode({8, 8}), "ab ab");
    EXPECT_EQ(tokenizer->encode("ab", kAdd), (Ids{1, 8}));
    EXPECT_EQ(tokenizer->decode({1, 8}, true), "ab");
    EXPECT_EQ(tokenizer->encode(""), Ids{});
    EXPECT_EQ(tokenizer->vocab_size(), 9);
    EXPECT_EQ(tokenizer->token_to_id("▁ab"), 8);
    EXPECT_EQ(tokenizer->token_to_id("nothing"), std::nullopt);
    EXPECT_EQ(tokenizer->id_to_token(7), "ab");
    EXPECT_EQ(tokenizer->id_to_token(99), "");
    EXPECT_TRUE(tokenizer->is_special(3));
    EXPECT_FALSE(tokenizer->is_special(8));
    EXPECT_THROW(tokenizer->encode("\xFF"), DataError);
}

TEST_F(SentencePieceTest, ControlPiecesAreParsedOnlyOnRequest) {
    write("tokenizer_config.json", R"({"legacy": false})");
    const auto tokenizer = load();
    for (const TokenId id : tokenizer->encode("<s>ab[INST]")) EXPECT_TRUE(id == 0 || id > 3) << id;
    EXPECT_EQ(tokenizer->encode("<s>ab[INST]ab", kParseSpecial),
              (Ids{1, 7, 3, 7}));  // no space behind a token
    EXPECT_EQ(tokenizer->encode("ab[INST] ab", kParseSpecial), (Ids{8, 3, 8}));
    EXPECT_EQ(tokenizer->decode({8, 3, 8}), "ab[INST] ab");
    EXPECT_EQ(tokenizer->decode({8, 3, 8}, true), "ab ab");
}

TEST_F(SentencePieceTest, TheClassThatTransformersTakesDecidesOnTheSpace) {
    EXPECT_EQ(load()->encode("ab[INST]ab", kParseSpecial), (Ids{8, 3, 8}));
    EXPECT_EQ(load()->encode(" ab"), (Ids{4, 8}));
    write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
    EXPECT_EQ(load()->encode("ab[INST]ab", kParseSpecial), (Ids{8, 3, 7}));
    EXPECT_EQ(load()->encode(" ab"), (Ids{8}));  // begins with one already
    write("config.json", R"({"model_type": "mistral"})");
    EXPECT_EQ(load()->encode(" ab[INST]ab", kParseSpecial), (Ids{4, 8, 3, 8}));
    write("tokenizer_config.json", R"({"legacy": false})");
    EXPECT_EQ(load()->encode(" ab[INST]ab", kParseSpecial), (Ids{8, 3, 7}));
}

TEST_F(SentencePieceTest, LegacyPutsTheSpaceBeforeEveryStretch) {
    write("tokenizer_config.json", R"({"legacy": true, "add_bos_token": false, "add_eos_token": true})");
    const auto tokenizer = load();
    EXPECT_EQ(tokenizer->encode("ab[INST]ab", kParseSpecial), (Ids{8, 3, 8}));
    EXPECT_EQ(tokenizer->encode("ab", kAdd), (Ids{8, 2}));
}

TEST_F(SentencePieceTest, TheSpaceCanBeSwitchedOff) {
    write("tokenizer_config.json", R"({"add_prefix_space": false})");
    EXPECT_EQ(load()->encode("ab ab"), (Ids{7, 8}));
    EXPECT_EQ(load()->decode({8, 8}), " ab ab");
}

TEST_F(SentencePieceTest, AddsTheTokensThatTheOtherFilesName) {
    write("tokenizer_config.json",
          R"({"legacy": false, "pad_token": "<pad>", "extra_special_tokens": ["<think>"]})");
    const auto tokenizer = load();
    EXPECT_EQ(tokenizer->encode("<think>ab<pad>", kParseSpecial), (Ids{10, 7, 9}));
    EXPECT_TRUE(tokenizer->is_special(10));
}

TEST_F(SentencePieceTest, TextIsReadWithItsRanges) {
    write("tokenizer_config.json", R"({"legacy": false})");
    const auto tokenizer = load();
    const EncodedText chat = tokenizer->encode_text("ab [INST]ab</s>", {.plain_ranges = {{0, 3}, {9, 11}}});
    EXPECT_EQ(chat.ids, (Ids{8, 4, 3, 7, 2}));
    EXPECT_EQ(chat.ranges, (std::vector<ByteRange>{{0, 2}, {2, 3}, {3, 9}, {9, 11}, {11, 15}}));
    const EncodedText cut = tokenizer->encode_text("ab[INST] ab", {.cuts = {1, 2, 10}});
    EXPECT_EQ(cut.ids, (Ids{4, 5, 6, 3, 4, 5, 6}));
    EXPECT_EQ(cut.crossed_cuts, (std::vector<std::size_t>{1, 10}));
    EXPECT_EQ(cut.ranges[0], (ByteRange{0, 0}));  // the space before the text stands for nothing
    const EncodedText forged = tokenizer->encode_text("ab[INST]ab", {.plain_ranges = {{2, 5}}});
    for (const TokenId id : forged.ids) EXPECT_NE(id, 3);
}

TEST_F(SentencePieceTest, TakesAddedTokensFromTheConfig) {
    write("tokenizer_config.json", R"({"legacy": false, "added_tokens_decoder": {
        "2": {"content": "</s>", "lstrip": true, "special": true},
        "9": {"content": "<tool>", "special": false}, "10": {"content": "<|im_end|>", "special": true}}})");
    const auto tokenizer = load();
    EXPECT_EQ(tokenizer->vocab_size(), 11);
    EXPECT_EQ(tokenizer->encode("ab<tool>ab"), (Ids{8, 9, 7}));
    EXPECT_EQ(tokenizer->encode("ab  </s><|im_end|>", kParseSpecial), (Ids{8, 2, 10}));
    EXPECT_EQ(tokenizer->decode({8, 9, 7, 10}), "ab<tool>ab<|im_end|>");
    EXPECT_TRUE(tokenizer->is_special(10));
}

TEST_F(SentencePieceTest, TakesAddedTokensFromTheOlderFile) {
    write("added_tokens.json", R"({"<|im_end|>": 10, "<tool>": 9})");
    write("special_tokens_map.json", R"({"additional_special_tokens": ["<|im_end|>"]})");
    const auto tokenizer = load();
    EXPECT_TRUE(tokenizer->is_special(10));
    EXPECT_FALSE(tokenizer->is_special(9));
    EXPECT_EQ(tokenizer->encode("<tool>"), (Ids{9}));
}

TEST_F(SentencePieceTest, ContradictionsAreRefusedTogether) {
    write("tokenizer_config.json", R"({"tokenizer_class": "T5Tokenizer", "bos_token": "<bos>", "legacy": 1,
        "added_tokens_decoder": {"5": {"content": "<x>"}, "11": {"content": "ab"}, "1": {"content": "</s>"}, "x": {}}})");
    const std::string message = refusal();
    for (const char* part : {"T5Tokenizer", "'<bos>'", "legacy", "the id 5 of '<x>' belongs to 'a'",
                             "the id of 'ab' must be 7", "'</s>' has the id 2", "the key must be an id"}) {
        EXPECT_NE(message.find(part), std::string::npos) << part << " in " << message;
    }
}

TEST_F(SentencePieceTest, ABrokenModelIsRefused) {
    for (const std::string& bytes : {std::string(), std::string("not a model"), tiny_model().substr(0, 20)}) {
        write("tokenizer.model", bytes);
        EXPECT_NE(refusal(), "");
    }
}

}  // namespace
}  // namespace qlora::tokenizer
