#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "qlora/core/error.h"
#include "tiny_tokenizer.h"

namespace qlora::tokenizer {
namespace {

std::string refusal_of(const Json& json) {
    try {
        const JsonTokenizer tokenizer(json, "tokenizer.json");
    } catch (const CheckpointError& error) {
        return error.what();
    }
    return "";
}

struct Refused {
    const char* field;     // set to `value`; "model.x" is inside the model
    std::string value;     // JSON
    const char* expected;  // in the message
};

std::vector<Refused> refused_files() {
    const std::string split =
        R"({"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex": ")";
    const std::string token =
        R"("single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true)";
    const auto added = [&](const std::string& start) { return "[{" + start + ", " + token + "}]"; };
    const std::string piece = R"({"Sequence": {"id": "A", "type_id": 0}})";
    const std::string cls = R"({"SpecialToken": {"id": "x", "type_id": 0}})";
    return {
        {"version", R"("2.0")", "version: '2.0' is not supported"},
        {"extra", "7", "extra: unknown field"},
        {"pre_tokenizer", R"({"type": "BertPreTokenizer"})",
         "pre_tokenizer type 'BertPreTokenizer' is not supported"},
        {"pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [{"type": "UnicodeScripts"}]})",
         "pre_tokenizer.pretokenizers[0] type 'UnicodeScripts' is not supported"},
        {"pre_tokenizer", R"({"type": "Punctuation", "behavior": "Isolated"})", "type 'Punctuation'"},
        {"pre_tokenizer", R"({"type": "ByteLevel"})", "pre_tokenizer.add_prefix_space: missing"},
        {"pre_tokenizer", R"({"type": "Digits", "individual_digits": 1})",
         "individual_digits: must be true or false"},
        {"pre_tokenizer", R"({"type": "Digits", "individual_digits": true, "pad": 3})",
         "pre_tokenizer.pad: unknown"},
        {"pre_tokenizer", R"({"type": "Metaspace", "replacement": "__"})",
         "replacement: must be one character"},
        {"pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"})",
         "'last' is not one"},
        {"pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "add_prefix_space": false})",
         "contradicts"},
        {"pre_tokenizer",
         R"({"type": "Split", "behavior": "Kept", "invert": false, "pattern": {"String": "a"}})",
         "'Kept' is not one of"},
        {"pre_tokenizer", R"({"type": "Split", "behavior": "Removed", "invert": false, "pattern": "a"})",
         "pattern: must be"},
        {"pre_tokenizer", split + R"re((?<n>a)\\k<n>"}})re", "the group '(?<n'"},
        {"pre_tokenizer", split + R"re(\\p{Han}"}})re", "\\p{Han}"},
        {"pre_tokenizer", split + R"re([a&&b]"}})re", "intersection"},
        {"pre_tokenizer", split + R"re((?i:maß)"}})re", "beyond ASCII in a caseless group"},
        {"pre_tokenizer", split + R"re((a"}})re", "not closed"},
        {"pre_tokenizer", R"("ByteLevel")", "pre_tokenizer: must be an object"},
        {"normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "AA=="})",
         "normalizer type 'Precompiled'"},
        {"normalizer", R"({"type": "BertNormalizer"})", "normalizer type 'BertNormalizer'"},
        {"normalizer", R"({"type": "Prepend"})", "normalizer.prepend: missing"},
        {"normalizer", R"({"strip_left": true})", "normalizer has no type"},
        {"decoder", R"({"type": "WordPiece", "prefix": "##", "cleanup": true})", "decoder type 'WordPiece'"},
        {"decoder", R"({"type": "Strip", "content": " ", "start": -1, "stop": 0})",
         "decoder.start: must be a whole number"},
        {"post_processor", R"({"type": "BertProcessing", "sep": ["x", 1], "cls": ["y", 2]})",
         "type 'BertProcessing'"},
        {"post_processor", R"({"type": "RobertaProcessing", "sep": ["x", 1], "cls": ["y"]})",
         "post_processor.cls: must be a token and its id"},
        {"post_processor",
         R"({"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}})",
         "must hold Sequence A exactly once"},
        {"post_processor",
         R"({"type": "TemplateProcessing", "single": [)" + piece + "," + cls + R"(], "special_tokens": {}})",
         "no ids for 'x'"},
        {"model", R"({"type": "WordPiece", "vocab": {}})", "model type 'WordPiece' is not supported"},
        {"model", R"({"type": "Unigram", "vocab": []})", "model type 'Unigram' is not supported"},
        {"model", "null", "model: must be an object"},
        {"model.dropout", "0.1", "model.dropout: must be null"},
        {"model.end_of_word_suffix", R"("</w>")", "end_of_word_suffix: is not supported"},
        {"model.continuing_subword_prefix", R"("##")", "continuing_subword_prefix: is not supported"},
        {"model.unk_token", R"("<unk>")", "'<unk>' is not in the vocabulary"},
        {"model.vocab", R"({"a": 0, "b": 0})", "the id 0 is given twice, to 'a' and to 'b'"},
        {"model.vocab", R"({"a": -1})", "the id of 'a' must be a whole number"},
        {"model.vocab", R"({"a": 4000000000})", "the id of 'a' must be a whole number"},
        {"model.vocab", "[]", "model.vocab: must be an object"},
        {"model.merges", R"(["a x"])", "model.merges[0]: 'x' is not in the vocabulary"},
        {"model.merges", R"(["c c"])", "'cc' is not in the vocabulary"},
        {"model.merges", R"(["a b", ["b", "c"]])", "model.merges[1]: must be two tokens"},
        {"model.merges", R"(["a b c"])", "model.merges[0]: must be two tokens"},
        {"model.byte_fallback", "1", "model.byte_fallback: must be true or false"},
        {"model.surprise", "true", "model.surprise: unknown field"},
        {"added_tokens", added(R"("id": 12, "content": "<x>")"), "the id of '<x>' must be 9"},
        {"added_tokens", added(R"("id": 3, "content": "<x>")"), "the id 3 of '<x>' belongs to 'Ġ'"},
        {"added_tokens", added(R"("id": 9, "content": "a")"), "the id of 'a' must be 0"},
        {"added_tokens", added(R"("id": 9, "content": "")"), "the content is empty"},
        {"added_tokens", R"([{"id": 9, "content": "<x>"}])", "added_tokens[0].lstrip: missing"},
    };
}

TEST(JsonTokenizerRefusal, EveryFileThatCannotBeReadExactlyIsRefusedByName) {
    for (const Refused& refused : refused_files()) {
        Json json = tiny_json();
        const std::string field = refused.field;
        Json& object = field.rfind("model.", 0) == 0 ? json["model"] : json;
        object[field.rfind("model.", 0) == 0 ? field.substr(6) : field] = json_of(refused.value);
        const std::string message = refusal_of(json);
        EXPECT_NE(message.find(refused.expected), std::string::npos)
            << field << " = " << refused.value << "\n  said: " << message;
        EXPECT_EQ(message.rfind("tokenizer.json: ", 0), 0u) << message;
    }
    EXPECT_GE(refused_files().size(), 40u);
}

TEST(JsonTokenizerRefusal, TheFileThatTheTableChangesIsAccepted) {
    EXPECT_EQ(refusal_of(tiny_json()), "");
}

TEST(JsonTokenizerRefusal, AllFaultsAreListedTogether) {
    Json json = tiny_json();
    json["normalizer"] = json_of(R"({"type": "Nmt"})");
    json["decoder"] = json_of(R"({"type": "CTC"})");
    json["model"]["dropout"] = 0.5;
    const std::string message = refusal_of(json);
    EXPECT_NE(message.find("3 faults"), std::string::npos) << message;
    for (const char* part : {"'Nmt'", "'CTC'", "dropout"})
        EXPECT_NE(message.find(part), std::string::npos) << part;
}

TEST(JsonTokenizerRefusal, ThePlaceOfTheStartMustSurviveTheNormalizer) {
    Json json = tiny_json();
    json["pre_tokenizer"] =
        json_of(R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"})");
    EXPECT_EQ(refusal_of(json), "");
    json["normalizer"] = json_of(R"({"type": "NFC"})");
    EXPECT_EQ(refusal_of(json), "");
    const auto replace = [&](const std::string& from, const std::string& to) {
        json["normalizer"] = json_of(R"({"type": "Replace", "pattern": {"String": ")" + from +
                                     R"("}, "content": ")" + to + R"("})");
        return refusal_of(json);
    };
    EXPECT_EQ(replace(" ", "▁"), "");  // one character for one
    EXPECT_NE(replace(" ", ""), "");
    EXPECT_NE(replace("ab", "c"), "");
    json["normalizer"] = json_of(R"({"type": "Strip", "strip_left": true, "strip_right": true})");
    EXPECT_NE(refusal_of(json).find("prepend_scheme 'first'"), std::string::npos);
}

TEST(JsonTokenizerRefusal, UnknownFieldsThatSayNothingAreAccepted) {
    Json json = tiny_json();
    json["model"]["later_option"] = false;
    json["note"] = nullptr;
    EXPECT_EQ(refusal_of(json), "");
}

}  // namespace
}  // namespace qlora::tokenizer
