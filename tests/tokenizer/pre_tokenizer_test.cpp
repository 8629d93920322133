#include "tokenizer/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <string>

#include "qlora/core/error.h"
#include "tiny_tokenizer.h"

namespace qlora::tokenizer {
namespace {

using Parts = std::vector<std::string>;

Parts pieces_of(const std::string& component, const std::string& text, bool at_start = true) {
    FaultList faults;
    const auto pre_tokenizer = read_pre_tokenizer(json_of(component), "pre_tokenizer", faults);
    EXPECT_TRUE(faults.empty()) << faults.text("faults");
    const TextMarks marks = TextMarks::everywhere(true);
    Pieces pieces{AlignedText(text, 0, marks), {{0, text.size(), at_start}}};
    pre_tokenizer->apply(pieces);
    Parts parts;
    for (const Pieces::Piece& piece : pieces.pieces) parts.emplace_back(pieces.view(piece));
    return parts;
}

Parts split_at(const std::string& behavior, bool invert = false) {
    return pieces_of(R"({"type": "Split", "pattern": {"String": "-"}, "behavior": ")" + behavior +
                         R"(", "invert": )" + (invert ? "true}" : "false}"),
                     "-ab--c-");
}

TEST(PreTokenizer, EveryBehaviorOfSplit) {
    EXPECT_EQ(split_at("Removed"), (Parts{"ab", "c"}));
    EXPECT_EQ(split_at("Isolated"), (Parts{"-", "ab", "-", "-", "c", "-"}));
    EXPECT_EQ(split_at("MergedWithPrevious"), (Parts{"-", "ab-", "-", "c-"}));
    EXPECT_EQ(split_at("MergedWithNext"), (Parts{"-ab", "-", "-c", "-"}));
    EXPECT_EQ(split_at("Contiguous"), (Parts{"-", "ab", "--", "c", "-"}));
    EXPECT_EQ(split_at("Removed", true), (Parts{"-", "-", "-", "-"}));
}

TEST(PreTokenizer, ByteLevelSplitsAsGpt2) {
    const std::string plain = R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true})";
    EXPECT_EQ(pieces_of(plain, "I'll  go\n\nto 42!"),
              (Parts{"I", "'ll", "Ġ", "Ġgo", "Ċ", "Ċ", "to", "Ġ42", "!"}));
    const std::string prefixed = R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true})";
    EXPECT_EQ(pieces_of(prefixed, "go"), (Parts{"Ġgo"}));
    EXPECT_EQ(pieces_of(prefixed, " go"), (Parts{"Ġgo"}));
    const std::string whole =
        R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})";
    EXPECT_EQ(pieces_of(whole, "a b\u00e9"), (Parts{"aĠbÃ©"}));
}

TEST(PreTokenizer, DigitsTogetherOrEachByItself) {
    EXPECT_EQ(pieces_of(R"({"type": "Digits", "individual_digits": true})", "a12\u0663b"),
              (Parts{"a", "1", "2", "\u0663", "b"}));
    EXPECT_EQ(pieces_of(R"({"type": "Digits", "individual_digits": false})", "a12b"),
              (Parts{"a", "12", "b"}));
}

TEST(PreTokenizer, MetaspaceFollowsItsScheme) {
    const auto metaspace = [](const std::string& rest) {
        return R"({"type": "Metaspace", "replacement": "_")" + rest + "}";
    };
    EXPECT_EQ(pieces_of(metaspace(""), "a  b"), (Parts{"_a", "_", "_b"}));
    EXPECT_EQ(pieces_of(metaspace(R"(, "prepend_scheme": "first")"), "a b", false), (Parts{"a", "_b"}));
    EXPECT_EQ(pieces_of(metaspace(R"(, "prepend_scheme": "first")"), "a b", true), (Parts{"_a", "_b"}));
    EXPECT_EQ(pieces_of(metaspace(R"(, "prepend_scheme": "never", "split": false)"), "a b"), (Parts{"a_b"}));
    EXPECT_EQ(pieces_of(metaspace(R"(, "split": false)"), " a"), (Parts{"_a"}));
}

TEST(PreTokenizer, WhitespaceSeparatesWordsFromSigns) {
    EXPECT_EQ(pieces_of(R"({"type": "Whitespace"})", " it's 5\u00bd\u3000ok!?"),
              (Parts{"it", "'", "s", "5", "\u00bd", "ok", "!?"}));
    EXPECT_EQ(pieces_of(R"({"type": "WhitespaceSplit"})", " it's\u3000ok "), (Parts{"it's", "ok"}));
}

TEST(PreTokenizer, SequencesWorkOnThePiecesBeforeThem) {
    EXPECT_EQ(
        pieces_of(R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
                        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}]})",
                  "a  2"),
        (Parts{"a", "ĠĠ", "2"}));
}

}  // namespace
}  // namespace qlora::tokenizer
