#include "tokenizer/unicode.h"

#include <gtest/gtest.h>

#include <string>

#include "qlora/core/utf8.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/unicode_normal_form.h"

namespace qlora::tokenizer {
namespace {

TEST(Unicode, FindsTheFirstByteThatIsNotUtf8) {
    EXPECT_EQ(find_invalid_utf8("plain ASCII of some length, \u00e9 \u4e00 \U0001F600"), std::string::npos);
    EXPECT_EQ(find_invalid_utf8("ab\x80"), 2u);
    EXPECT_EQ(find_invalid_utf8("ab\xC0\x80"), 2u);           // overlong
    EXPECT_EQ(find_invalid_utf8("ab\xE0\x9F\xBF"), 2u);       // overlong
    EXPECT_EQ(find_invalid_utf8("\xED\xA0\x80"), 0u);         // surrogate
    EXPECT_EQ(find_invalid_utf8("\xF4\x90\x80\x80"), 0u);     // above U+10FFFF
    EXPECT_EQ(find_invalid_utf8("0123456789\xE4\xB8"), 10u);  // cut
}

TEST(Unicode, ReplacesEachMaximalPartOnce) {
    EXPECT_EQ(replace_invalid_utf8("a\xF0\x9F\x98z"), "a\uFFFDz");
    EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");
    EXPECT_EQ(replace_invalid_utf8("\x80\xC3\xA9\xC3"), "\uFFFD\u00e9\uFFFD");
}

TEST(Unicode, EveryCodePointSurvivesWritingAndReading) {
    for (char32_t value = 0; value < 0x110000; value += value < 0x3000 ? 1 : 37) {
        if (value >= 0xD800 && value <= 0xDFFF) continue;
        std::string text = "x";
        append_utf8(text, value);
        ASSERT_EQ(find_invalid_utf8(text), std::string::npos);
        ASSERT_EQ(code_point_at(text, 1).value, value);
        ASSERT_EQ(code_point_before(text, text.size()).value, value);
        ASSERT_EQ(code_point_at(text, 1).length, text.size() - 1);
    }
}

TEST(Unicode, ClassesOfCharacters) {
    for (const char32_t space : {0x20, 0x09, 0x0D, 0x85, 0xA0, 0x1680, 0x2000, 0x2028, 0x202F, 0x3000}) {
        EXPECT_TRUE(is_white_space(space));
    }
    for (const char32_t other : {0x1C, 0x180E, 0x200B, 0xFEFF, 0x61}) EXPECT_FALSE(is_white_space(other));
    EXPECT_TRUE(is_numeric(U'7') && is_numeric(U'\u00bd') && is_numeric(U'\u2167') && is_numeric(0x10D40));
    EXPECT_FALSE(is_numeric(U'a') || is_numeric(U'\u4e94'));
    EXPECT_TRUE(is_word(U'_') && is_word(U'\u00e9') && is_word(U'\u0301') && is_word(0x200D));
    EXPECT_FALSE(is_word(U'-') || is_word(U'\u00bd') || is_word(U' '));
}

TEST(Unicode, TheByteAlphabetIsOneLetterAByte) {
    std::string letters;
    std::string bytes;
    for (int byte = 0; byte < 256; ++byte) {
        letters += byte_letters()[static_cast<unsigned char>(byte)];
        bytes += static_cast<char>(byte);
    }
    EXPECT_EQ(bytes_of_letters(letters), bytes);
    EXPECT_EQ(bytes_of_letters("Ġa"), " a");
    EXPECT_EQ(bytes_of_letters("a b"), std::nullopt);  // the space itself is no letter
}

TEST(NormalForm, KnownAnswers) {
    EXPECT_EQ(to_normal_form("e\u0301", NormalForm::kNfc), "\u00e9");
    EXPECT_EQ(to_normal_form("\u00e9\u1e69", NormalForm::kNfd), "e\u0301s\u0323\u0307");
    EXPECT_EQ(to_normal_form("s\u0307\u0323", NormalForm::kNfc), "\u1e69");
    EXPECT_EQ(to_normal_form("\ufb01\u00b2", NormalForm::kNfkc), "fi2");
    EXPECT_EQ(to_normal_form("\u212b", NormalForm::kNfkd), "A\u030a");
    EXPECT_EQ(to_normal_form("\u1100\u1161\u11a8", NormalForm::kNfc), "\uac01");
    EXPECT_EQ(to_normal_form("a\xF0\x9F\x91\x8D", NormalForm::kNfc), "a\xF0\x9F\x91\x8D");
    EXPECT_EQ(to_normal_form("", NormalForm::kNfc), "");
    EXPECT_EQ(to_lower_case("\u0130A\u03a3"), "i\u0307a\u03c3");
}

TEST(NormalForm, ALongRunOfMarksIsSorted) {
    constexpr std::size_t kPairs = 20000;
    std::string mixed;
    std::string low;
    std::string high;
    for (std::size_t i = 0; i < kPairs; ++i) {
        mixed += "\u0301\u0323";
        low += "\u0323";   // class 220
        high += "\u0301";  // class 230
    }
    EXPECT_EQ(to_normal_form("q" + mixed, NormalForm::kNfd), "q" + low + high);
}

}  // namespace
}  // namespace qlora::tokenizer
