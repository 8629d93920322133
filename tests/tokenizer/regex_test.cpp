#include "tokenizer/regex.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace qlora::tokenizer {
namespace {

using Parts = std::vector<std::string>;

// The parts in order; matches stand in brackets.
Parts split(const Regex& regex, std::string_view text) {
    Parts parts;
    for (const Span& span : regex.split(text)) {
        const std::string part(text.substr(span.begin, span.end - span.begin));
        parts.push_back(span.is_match ? "[" + part + "]" : part);
    }
    return parts;
}

Parts split(const std::string& pattern, std::string_view text) {
    return split(Regex::from_oniguruma(pattern), text);
}

TEST(Regex, SplitsCoverTheTextInOrder) {
    EXPECT_EQ(split("b+", "abba"), (Parts{"a", "[bb]", "a"}));
    EXPECT_EQ(split("x", "abba"), (Parts{"abba"}));
    EXPECT_EQ(split("x", ""), Parts{});
    EXPECT_EQ(split(Regex::from_literal("a.b"), "a.ba.baxb"), (Parts{"[a.b]", "[a.b]", "axb"}));
}

TEST(Regex, EmptyMatchesAdvanceByOneCharacter) {
    EXPECT_EQ(split("z*", "é"), (Parts{"[]", "é", "[]"}));
    EXPECT_EQ(split("b*", "abc"), (Parts{"[]", "a", "[b]", "c", "[]"}));
}

TEST(Regex, WhiteSpaceIsTheUnicodePropertyAndNotPcres) {
    EXPECT_EQ(split(R"(\s)", "a\u00a0\u3000\u0085b\u180ec"),
              (Parts{"a", "[\u00a0]", "[\u3000]", "[\u0085]", "b\u180ec"}));
    EXPECT_EQ(split(R"([^\S\n]+)", " \n\u2028"), (Parts{"[ ]", "\n", "[\u2028]"}));
}

TEST(Regex, LettersOfLaterUnicodeVersionsAreLetters) {
    EXPECT_EQ(split(R"(\p{L}+)", "a\U00031350\U00010d50-"), (Parts{"[a\U00031350\U00010d50]", "-"}));
    EXPECT_EQ(split(R"(\P{L})", "\U00031350-"), (Parts{"\U00031350", "[-]"}));
}

TEST(Regex, RubysIntervalsWithPlusRepeatAgain) {
    EXPECT_EQ(split(R"(\d{1,3}+x)", "1234567x"), (Parts{"[1234567x]"}));
    EXPECT_EQ(split(R"(a{,2}b)", "aaab"), (Parts{"a", "[aab]"}));
    EXPECT_EQ(split(R"(a++a)", "aaa"), (Parts{"aaa"}));  // possessive
    EXPECT_EQ(split("{a}", "{a}"), (Parts{"[{a}]"}));
}

TEST(Regex, AnchorsMatchAtEveryLine) {
    EXPECT_EQ(split("^a", "a\na"), (Parts{"[a]", "\n", "[a]"}));
    EXPECT_EQ(split("b$", "b\r\nb"), (Parts{"b\r\n", "[b]"}));
    EXPECT_EQ(split(R"(\Aa)", "a\na"), (Parts{"[a]", "\na"}));
    EXPECT_EQ(split(".+", "a\rb\nc"), (Parts{"[a\rb]", "\n", "[c]"}));
}

TEST(Regex, CaselessGroupsEndWithTheGroup) {
    EXPECT_EQ(split("(?i:k)x", "Kxkx\u212axKX"), (Parts{"[Kx]", "[kx]", "[\u212ax]", "KX"}));
    EXPECT_EQ(split("(?i:a)b", "Ab AB"), (Parts{"[Ab]", " AB"}));
    EXPECT_EQ(split("(?i)ab|c", "C AB"), (Parts{"[C]", " ", "[AB]"}));
}

TEST(Regex, ReplacementsAreLiteral) {
    EXPECT_EQ(Regex::from_oniguruma("a+").replace("baab", "$0\\1"), "b$0\\1b");
    EXPECT_EQ(Regex::from_literal(" ").replace("a  b", "▁"), "a▁▁b");
}

TEST(Regex, WhatCannotBeTranslatedExactlyIsRefused) {
    for (const char* pattern : {R"(\1)",
                                R"(\b)",
                                R"(\h)",
                                R"(\X)",
                                R"(\K)",
                                R"(\p{Greek})",
                                R"(\pL)",
                                R"([[:alpha:]])",
                                R"([a[b]])",
                                "[a&&b]",
                                "(?m:a)",
                                "(?x) a",
                                "(?<name>a)",
                                "(?~a)",
                                "(?#note)",
                                "a(?i)b",
                                "a**",
                                "a{2}{3}",
                                "a{2}?",
                                "a{3,2}",
                                "*a",
                                "(",
                                ")",
                                "[a",
                                "[]",
                                R"([\P{L}])",
                                R"(\xFF)",
                                R"(\u12)",
                                "(?i:ss)",
                                "(?i:ß)",
                                R"((?i:\p{Lu}))",
                                "\\",
                                R"((?<=a*)b)"}) {
        EXPECT_THROW(Regex::from_oniguruma(pattern), std::invalid_argument) << pattern;
    }
}

}  // namespace
}  // namespace qlora::tokenizer
