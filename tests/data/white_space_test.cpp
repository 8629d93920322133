#include "data/white_space.h"

#include <gtest/gtest.h>

namespace {

using qlora::data::strip;

TEST(Strip, RemovesUnicodeWhiteSpaceAtBothEnds) {
    EXPECT_EQ(strip(" \t\r\n\v\f\x1c\x1f a b \xc2\xa0\xe3\x80\x80\xe2\x80\xa8\xc2\x85"), "a b");
}

TEST(Strip, KeepsOtherInvisibleCharacters) {
    // Zero width space and byte order mark are no white space.
    EXPECT_EQ(strip("\xe2\x80\x8b"), "\xe2\x80\x8b");
    EXPECT_EQ(strip("\xef\xbb\xbf"), "\xef\xbb\xbf");
}

TEST(Strip, KeepsCharactersWhoseLastByteLooksLikeWhiteSpace) {
    EXPECT_EQ(strip("\xc3\xa0"), "\xc3\xa0");
    EXPECT_EQ(strip("\xed\x95\x9c\xea\xb5\xad"), "\xed\x95\x9c\xea\xb5\xad");
    EXPECT_EQ(strip("\xf0\x9f\x98\x85 "), "\xf0\x9f\x98\x85");
}

TEST(Strip, LeavesNothingOfWhiteSpaceAlone) {
    EXPECT_EQ(strip("\xe3\x80\x80 \n"), "");
}

}  // namespace
