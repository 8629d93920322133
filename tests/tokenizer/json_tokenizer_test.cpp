#include "tokenizer/json_tokenizer.h"

#include <gtest/gtest.h>

#include <string>

#include "qlora/core/error.h"
#include "tiny_tokenizer.h"

namespace qlora::tokenizer {
namespace {

using Ids = std::vector<TokenId>;
constexpr EncodeOptions kParse{true, false};
constexpr EncodeOptions kParseAndAdd{true, true};

Json byte_level_json() {
    Json json = tiny_json();
    json["pre_tokenizer"] =
        json_of(R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true})");
    json["decoder"] = json_of(R"({"type": "ByteLevel"})");
    json["added_tokens"] = Json::array({added_token(9, "<end>", true), added_token(10, "<tool>", false)});
    return json;
}

TEST(JsonTokenizer, WritesBytesInTheirOwnLetters) {
    const JsonTokenizer tokenizer(byte_level_json(), "tiny");
    EXPECT_EQ(tokenizer.encode("ab c\u00e9", {}), (Ids{6, 3, 2, 4, 5}));
    EXPECT_EQ(tokenizer.decode({6, 3, 2, 4, 5}, false), "ab c\u00e9");
    EXPECT_EQ(tokenizer.decode({4}, false), "\uFFFD");  // half a character
}

TEST(JsonTokenizer, ContentNeverBecomesASpecialToken) {
    const JsonTokenizer tokenizer(byte_level_json(), "tiny");
    for (const TokenId id : tokenizer.encode("a<end>b", {})) EXPECT_NE(id, 9);
    EXPECT_EQ(tokenizer.encode("a<end>b", kParse), (Ids{0, 9, 1}));
    EXPECT_EQ(tokenizer.encode("a<tool>b", {}), (Ids{0, 10, 1}));  // an added token that is not special
}

TEST(JsonTokenizer, OfAddedTokensThatNormalizeAlikeTheSpecialOneWins) {
    Json json = tiny_json();
    json["normalizer"] = json_of(R"({"type": "Lowercase"})");
    json["added_tokens"] = Json::array(
        {added_token(9, "<Pad>", false, {"normalized"}), added_token(10, "<pad>", true, {"normalized"})});
    const JsonTokenizer tokenizer(json, "tiny");
    EXPECT_EQ(tokenizer.encode("a<pad>", kParse), (Ids{0, 10}));
    EXPECT_EQ(tokenizer.encode("<Pad>", kParse), (Ids{10}));
}

TEST(JsonTokenizer, KnowsItsTokens) {
    const JsonTokenizer tokenizer(byte_level_json(), "tiny");
    EXPECT_EQ(tokenizer.vocab_size(), 11);
    EXPECT_EQ(tokenizer.token_to_id("<end>"), 9);
    EXPECT_EQ(tokenizer.token_to_id("abc"), 8);
    EXPECT_EQ(tokenizer.token_to_id("abcd"), std::nullopt);
    EXPECT_EQ(tokenizer.id_to_token(10), "<tool>");
    EXPECT_EQ(tokenizer.id_to_token(3), "Ġ");
    EXPECT_EQ(tokenizer.id_to_token(11), "");
    EXPECT_EQ(tokenizer.id_to_token(-1), "");
    EXPECT_TRUE(tokenizer.is_special(9));
    EXPECT_FALSE(tokenizer.is_special(10));
    EXPECT_FALSE(tokenizer.is_special(0));
}

TEST(JsonTokenizer, DecodingSkipsSpecialTokensOnRequestAndUnknownIdsAlways) {
    const JsonTokenizer tokenizer(byte_level_json(), "tiny");
    EXPECT_EQ(tokenizer.decode({0, 9, 1, 999, -5}, false), "a<end>b");
    EXPECT_EQ(tokenizer.decode({0, 9, 1, 10}, true), "ab<tool>");
}

TEST(JsonTokenizer, WithoutADecoderTokensAreJoinedBySpaces) {
    const JsonTokenizer tokenizer(tiny_json(), "tiny");
    EXPECT_EQ(tokenizer.decode({0, 1, 8}, false), "a b abc");
}

TEST(JsonTokenizer, RefusesTextThatIsNotUtf8) {
    const JsonTokenizer tokenizer(byte_level_json(), "tiny");
    EXPECT_THROW(tokenizer.encode("a\xC3", {}), DataError);
    EXPECT_THROW(tokenizer.encode("\xED\xA0\x80", {}), DataError);  // a surrogate
}

TEST(JsonTokenizer, AddsWhatTheTemplateSaysOnlyWhenAsked) {
    Json json = byte_level_json();
    json["post_processor"] = json_of(R"({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<end>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "<end>", "type_id": 0}}],
        "pair": [], "special_tokens": {"<end>": {"id": "<end>", "ids": [9], "tokens": ["<end>"]}}})");
    const JsonTokenizer tokenizer(json, "tiny");
    EXPECT_EQ(tokenizer.encode("a", kParse), (Ids{0}));
    EXPECT_EQ(tokenizer.encode("a", kParseAndAdd), (Ids{9, 0, 9}));
    EXPECT_EQ(tokenizer.encode("", kParseAndAdd), (Ids{9, 9}));
}

TEST(JsonTokenizer, RobertaProcessingSetsATokenBeforeAndOneBehind) {
    Json json = byte_level_json();
    json["post_processor"] =
        json_of(R"({"type": "RobertaProcessing", "sep": ["<end>", 9], "cls": ["<tool>", 10],
        "trim_offsets": true, "add_prefix_space": false})");
    const JsonTokenizer tokenizer(json, "tiny");
    EXPECT_EQ(tokenizer.encode("a", kParseAndAdd), (Ids{10, 0, 9}));
    EXPECT_EQ(tokenizer.encode("a", kParse), (Ids{0}));
}

TEST(JsonTokenizer, TheLongestAddedTokenWinsAndTakesItsWhiteSpaceAlong) {
    Json json = byte_level_json();
    json["added_tokens"] =
        Json::array({added_token(9, "<x>", false, {"lstrip"}), added_token(10, "<x>y", false, {"rstrip"}),
                     added_token(11, "word", false, {"single_word"})});
    const JsonTokenizer tokenizer(json, "tiny");
    EXPECT_EQ(tokenizer.encode("a \n<x>b", {}), (Ids{0, 9, 1}));
    EXPECT_EQ(tokenizer.encode("a<x>y \t b", {}), (Ids{0, 10, 1}));
    EXPECT_EQ(tokenizer.encode("a word b", {}), (Ids{0, 3, 11, 3, 1}));
    EXPECT_EQ(tokenizer.encode("aword", {}), (Ids{0}));  // no token for w, o, r, d: all but the a are dropped
    EXPECT_EQ(tokenizer.encode("word\u00e9", {}), (Ids{4, 5}));  // a letter touches it
}

TEST(JsonTokenizer, NormalizedAddedTokensAreFoundInNormalizedText) {
    Json json = byte_level_json();
    json["normalizer"] = json_of(R"({"type": "Lowercase"})");
    json["added_tokens"] =
        Json::array({added_token(9, "CAB", false, {"normalized"}), added_token(10, "BA", false)});
    const JsonTokenizer tokenizer(json, "tiny");
    EXPECT_EQ(tokenizer.encode("aCab", {}), (Ids{0, 9}));
    EXPECT_EQ(tokenizer.encode("BAba", {}), (Ids{10, 1, 0}));
    EXPECT_EQ(tokenizer.decode({9}, false), "cab");
}

TEST(JsonTokenizer, LlamaDecodersUndoLlamaNormalizers) {
    Json json = tiny_json();
    json["normalizer"] = json_of(R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})");
    json["decoder"] = json_of(R"({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})");
    json["model"]["byte_fallback"] = true;
    json["model"]["vocab"]["▁"] = 9;
    json["model"]["vocab"]["<0xC3>"] = 10;
    json["model"]["vocab"]["<0xA9>"] = 11;
    const JsonTokenizer tokenizer(json, "tiny");
    EXPECT_EQ(tokenizer.encode(" ab \u00e9", {}), (Ids{9, 9, 6, 9, 10, 11}));
    EXPECT_EQ(tokenizer.decode({9, 9, 6, 9, 10, 11}, false), " ab \u00e9");
    EXPECT_EQ(tokenizer.decode({10, 10, 11}, false),
              "\uFFFD\uFFFD\uFFFD");  // a run that is no UTF-8 is lost whole
    EXPECT_EQ(tokenizer.encode("", {}), Ids{});
}

TEST(JsonTokenizer, TruncationAndPaddingAreNotApplied) {
    Json json = tiny_json();
    json["truncation"] =
        json_of(R"({"max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"})");
    EXPECT_EQ(JsonTokenizer(json, "tiny").encode("aac", {}).size(), 3u);
}

}  // namespace
}  // namespace qlora::tokenizer
