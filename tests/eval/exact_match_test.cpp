#include "qlora/eval/exact_match.h"

#include <gtest/gtest.h>

namespace qlora::eval {
namespace {

TEST(ExactMatch, WidthCompositionAndCaseDoNotCount) {
    EXPECT_TRUE(exact_match("ＰＡＲＩＳ", "paris"));
    EXPECT_TRUE(exact_match("e\u0301t\u00e9", "\u00c9T\u00c9"));
    EXPECT_TRUE(exact_match("ﬁne ²", "fine 2"));
    EXPECT_TRUE(exact_match("\u1112\u1161\u11ab", "한"));
    EXPECT_FALSE(exact_match("straße", "strasse")) << "lower case, not case folding";
}

TEST(ExactMatch, BlanksAtTheEndsAndTheirNumberInsideDoNotCount) {
    EXPECT_EQ(normalize_answer(" \t a\u00a0\n\u3000b \u2028"), "a b");
    EXPECT_EQ(normalize_answer("\u0085a\u1680b\u205fc\r\n"), "a b c");
    EXPECT_TRUE(exact_match("", " \n "));
    EXPECT_FALSE(exact_match("ab", "a b"));
    EXPECT_EQ(normalize_answer("a\u200bb"), "a\u200bb") << "no white space in Unicode";
}

TEST(ExactMatch, WhatIsNotUtf8StaysAsItIs) {
    EXPECT_EQ(normalize_answer("A\xff"), "A\xff");
    EXPECT_FALSE(exact_match("Paris\xe2\x80", "paris"));
}

}  // namespace
}  // namespace qlora::eval
