#include "qlora/tokenizer/text_encoding.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "qlora/core/error.h"
#include "tiny_tokenizer.h"
#include "tokenizer/llama_class.h"

namespace qlora::tokenizer {
namespace {

using Ids = std::vector<TokenId>;
using Ranges = std::vector<ByteRange>;
using Offsets = std::vector<std::size_t>;

// tiny_json in bytes, with <end> 9, <tool> 10 (no control token), a<end> 11 and ca 12 (no control token).
Json chat_json() {
    Json json = tiny_json();
    json["pre_tokenizer"] =
        json_of(R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true})");
    json["added_tokens"] = Json::array({added_token(9, "<end>", true), added_token(10, "<tool>", false),
                                        added_token(11, "a<end>", true), added_token(12, "ca", false)});
    return json;
}

EncodedText read_text(const Json& json, std::string_view text, const TextEncodingOptions& options = {}) {
    return JsonTokenizer(json, "tiny").encode_text(text, options);
}

TEST(EncodeText, WhatAMessageSaysIsNoControlToken) {
    EXPECT_EQ(read_text(chat_json(), "b<end>").ids, (Ids{1, 9}));
    EXPECT_EQ(read_text(chat_json(), "b<end>b", {.plain_ranges = {{0, 7}}}).ids, (Ids{1, 1}));
    for (const ByteRange plain : {ByteRange{2, 3}, ByteRange{0, 2}, ByteRange{5, 7}, ByteRange{1, 6}})
        EXPECT_EQ(read_text(chat_json(), "b<end>b", {.plain_ranges = {plain}}).ids, (Ids{1, 1}));
    for (const ByteRange plain : {ByteRange{0, 1}, ByteRange{6, 7}, ByteRange{3, 3}})
        EXPECT_EQ(read_text(chat_json(), "b<end>b", {.plain_ranges = {plain}}).ids, (Ids{1, 9, 1}));
}

TEST(EncodeText, AMessageTakesNoControlTokenAwayFromTheTemplate) {
    EXPECT_EQ(read_text(chat_json(), "a<end>").ids, (Ids{11}));
    EXPECT_EQ(read_text(chat_json(), "a<end>", {.plain_ranges = {{0, 1}}}).ids, (Ids{0, 9}));
}

TEST(EncodeText, OtherAddedTokensAreFoundEverywhere) {
    EXPECT_EQ(read_text(chat_json(), "b<tool>ca", {.plain_ranges = {{0, 8}}}).ids, (Ids{1, 10, 12}));
    EXPECT_EQ(read_text(chat_json(), "b<tool>ca", {.plain_ranges = {{0, 8}}, .control_tokens = {10}}).ids,
              (Ids{1, 12}));
}

TEST(EncodeText, MergesMakeNoControlTokenOfAMessage) {
    Json json = tiny_json();
    json["added_tokens"] = Json::array({added_token(8, "abc", true)});
    EXPECT_EQ(read_text(json, "abcab").ids, (Ids{8, 6}));
    EXPECT_EQ(read_text(json, "abcab", {.plain_ranges = {{0, 5}}}).ids, (Ids{0, 7, 6}));
    json["model"]["ignore_merges"] = true;
    EXPECT_EQ(read_text(json, "abc", {.plain_ranges = {{2, 3}}}).ids, (Ids{0, 7}));
}

TEST(EncodeText, EveryTokenKnowsItsBytes) {
    const EncodedText text = read_text(chat_json(), "abc \u00e9<end>xab");
    EXPECT_EQ(text.ids, (Ids{8, 3, 4, 5, 9, 6}));
    EXPECT_EQ(text.ranges, (Ranges{{0, 3}, {3, 4}, {4, 5}, {5, 6}, {6, 11}, {12, 14}}));  // x has no token

    Json spaced = chat_json();
    spaced["pre_tokenizer"]["add_prefix_space"] = true;
    EXPECT_EQ(read_text(spaced, "ab").ranges, (Ranges{{0, 0}, {0, 2}}));

    Json composed = chat_json();
    composed["normalizer"] = json_of(R"({"type": "NFC"})");
    EXPECT_EQ(read_text(composed, "ae\u0301b").ids, (Ids{0, 4, 5, 1}));
    EXPECT_EQ(read_text(composed, "ae\u0301b").ranges, (Ranges{{0, 1}, {1, 4}, {1, 4}, {4, 5}}));
}

TEST(EncodeText, WhiteSpaceThatATokenTakesAlongIsInNoRange) {
    Json json = chat_json();
    json["added_tokens"][0]["lstrip"] = true;
    json["added_tokens"][0]["rstrip"] = true;
    const EncodedText text =
        read_text(json, "b <end>  b", {.plain_ranges = {{0, 2}, {7, 10}}, .cuts = {2, 7}});
    EXPECT_EQ(text.ids, (Ids{1, 9, 1}));
    EXPECT_EQ(text.ranges, (Ranges{{0, 1}, {2, 7}, {9, 10}}));
    EXPECT_TRUE(text.crossed_cuts.empty());
}

TEST(EncodeText, OnlyWhatCrossesACutIsCut) {
    const EncodedText kept = read_text(chat_json(), "abcbc", {.cuts = {0, 3, 5}});
    EXPECT_EQ(kept.ids, (Ids{8, 7}));
    EXPECT_TRUE(kept.crossed_cuts.empty());
    const EncodedText cut = read_text(chat_json(), "abcbc", {.cuts = {2, 3, 4}});
    EXPECT_EQ(cut.ids, (Ids{6, 2, 1, 2}));
    EXPECT_EQ(cut.crossed_cuts, (Offsets{2, 4}));
    // An added token is no token any more; a shorter one, and text, may stand there.
    const EncodedText token = read_text(chat_json(), "bca<end>", {.cuts = {2}});
    EXPECT_EQ(token.ids, (Ids{7, 11}));
    EXPECT_EQ(token.crossed_cuts, (Offsets{2}));
    Json json = chat_json();
    json["normalizer"] = json_of(R"({"type": "NFC"})");
    const EncodedText character = read_text(json, "ac\u0327b", {.cuts = {2}});  // no token for the mark alone
    EXPECT_EQ(character.ids, (Ids{0, 2, 1}));
    EXPECT_EQ(character.crossed_cuts, (Offsets{2}));
}

TEST(EncodeText, TextAndOffsetsAreChecked) {
    EXPECT_THROW(read_text(chat_json(), "a\xFF"), DataError);
    EXPECT_EQ(read_text(chat_json(), "").ids, Ids{});
    EXPECT_EQ(read_text(chat_json(), std::string_view("a\0b", 3)).ids, (Ids{0, 1}));
    for (const TextEncodingOptions& options :
         {TextEncodingOptions{.plain_ranges = {{0, 9}}}, TextEncodingOptions{.plain_ranges = {{1, 0}}},
          TextEncodingOptions{.plain_ranges = {{0, 1}, {0, 2}}}, TextEncodingOptions{.cuts = {2}},
          TextEncodingOptions{.cuts = {1, 0}}})
        EXPECT_THROW(read_text(chat_json(), "a\u00e9", options), std::invalid_argument);
}

TEST(EncodeText, ATokenThatWouldCrossACutIsTwoSides) {
    const EncodedText whole = read_text(chat_json(), "ab abc<end>", {.cuts = {3}});
    EXPECT_EQ(whole.ids, (Ids{6, 3, 8, 9}));
    EXPECT_TRUE(whole.crossed_cuts.empty());
    const EncodedText cut = read_text(chat_json(), "abc", {.cuts = {2}});
    EXPECT_EQ(cut.ids, (Ids{6, 2}));
    EXPECT_EQ(cut.crossed_cuts, std::vector<std::size_t>{2});
}

TEST(LlamaClass, TheFileIsReadAsTransformersReadsIt) {
    const auto takes = [](const char* name, const char* type) {
        return takes_llama_class({{"tokenizer_class", name}}, {{"model_type", type}});
    };
    EXPECT_TRUE(takes("LlamaTokenizer", "llama") && takes("LlamaTokenizerFast", "gemma"));
    EXPECT_FALSE(takes("LlamaTokenizer", "mistral") || takes("PreTrainedTokenizerFast", "llama"));
    EXPECT_TRUE(takes_llama_class(Json::object(), {{"tokenizer_class", "LlamaTokenizer"}}));
    EXPECT_FALSE(takes_llama_class(Json::object(), Json::object()));

    Json json = tiny_json();
    json["normalizer"] = json_of(R"({"type": "Prepend", "prepend": "\u2581"})");
    json["added_tokens"] = Json::array({added_token(10, "<end>", true)});
    json["model"]["vocab"]["\u2581"] = 9;
    EXPECT_EQ(read_text(json, "ab<end>ab").ids, (Ids{9, 6, 10, 9, 6}));
    EXPECT_EQ(read_text(as_llama_class(json, Json::object()), "ab<end>ab").ids, (Ids{9, 6, 10, 6}));
    EXPECT_EQ(read_text(as_llama_class(json, {{"legacy", true}}), "ab<end> ab").ids, (Ids{9, 6, 10, 9, 6}));
    EXPECT_EQ(read_text(as_llama_class(json, {{"add_prefix_space", false}}), "ab").ids, (Ids{6}));
    EXPECT_EQ(as_llama_class(chat_json(), Json::object()), chat_json());  // works on bytes
}

}  // namespace
}  // namespace qlora::tokenizer
