#include "qlora/data/preview.h"

#include <gtest/gtest.h>

#include "tokenizer/tiny_tokenizer.h"

namespace qlora::data {
namespace {

using tokenizer::json_of;
using tokenizer::JsonTokenizer;

// A vocabulary that marks blanks as sentencepiece does, two bytes of its byte fallback, and a special token.
JsonTokenizer tokenizer_with(const char* decoder) {
    Json json = tokenizer::tiny_json();
    json["model"]["vocab"] = json_of(R"({"▁": 0, "Paris": 1, "▁Paris": 2, "▁▁": 3,
                                         "<0x0A>": 4, "<0xC3>": 5})");
    json["model"]["merges"] = Json::array();
    json["decoder"] = json_of(decoder);
    json["added_tokens"] = Json::array({tokenizer::added_token(6, "</s>", true)});
    return {json, "tiny"};
}

// The row of all these tokens, without its headline.
std::string preview(const tokenizer::Tokenizer& tokenizer, const std::vector<tokenizer::TokenId>& ids) {
    Dataset dataset;
    dataset.examples.resize(1);
    dataset.examples[0].ids = ids;
    dataset.examples[0].supervised.assign(ids.size(), 1);
    const std::string text = preview_rows(dataset, tokenizer, 1);
    return text.substr(text.find('\n') + 1);
}

constexpr const char* kLlama = R"({"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
    {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})";

TEST(Preview, a_blank_at_the_begin_of_a_token_is_seen) {
    EXPECT_EQ(preview(tokenizer_with(kLlama), {2, 1, 0, 3, 4, 5, 6}),
              "  TRAIN | \" Paris\" \"Paris\" \" \" \"  \" \"\\n\" \"<0xC3>\" </s>\n\n");
    const JsonTokenizer metaspace =
        tokenizer_with(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"})");
    EXPECT_EQ(preview(metaspace, {2, 1, 0, 3, 6}), "  TRAIN | \" Paris\" \"Paris\" \" \" \"  \" </s>\n\n");
}

TEST(Preview, tokens_without_a_decoder_are_shown_as_they_are_spelled) {
    EXPECT_EQ(preview(tokenizer_with("null"), {2, 1}), "  TRAIN | \"▁Paris\" \"Paris\"\n\n");
}

TEST(Preview, byte_level_tokens_are_shown_as_their_text) {
    Json json = tokenizer::tiny_json();
    json["decoder"] = json_of(R"({"type": "ByteLevel"})");
    const JsonTokenizer tokenizer(json, "tiny");
    EXPECT_EQ(preview(tokenizer, {3, 6, 4}), "  TRAIN | \" \" \"ab\" \"Ã\"\n\n");
}

}  // namespace
}  // namespace qlora::data
