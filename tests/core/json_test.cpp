#include "qlora/core/json.h"

#include <gtest/gtest.h>

#include <string>

#include "qlora/core/error.h"
#include "support/temp_dir.h"

namespace qlora {
namespace {

std::string fault_of(const std::string& text) {
    try {
        parse_json(text, "run.json");
    } catch (const ConfigError& error) {
        return error.what();
    }
    return "no fault";
}

struct BadText {
    const char* name;
    std::string text;
    std::string place;
    std::string reason;
};

void PrintTo(const BadText& bad, std::ostream* out) {
    *out << bad.name;
}

class RefusedJson : public testing::TestWithParam<BadText> {};

TEST_P(RefusedJson, names_line_and_column_and_reason) {
    const std::string fault = fault_of(GetParam().text);
    EXPECT_EQ(fault.rfind("run.json: " + GetParam().place, 0), 0U) << fault;
    EXPECT_NE(fault.find(GetParam().reason), std::string::npos) << fault;
}

const BadText kBadTexts[] = {
    {"empty", "", "line 1, column 1", "unexpected end of input"},
    {"blank", " \n ", "line 2, column 2", "unexpected end of input"},
    {"nan", "{\"a\": NaN}", "line 1, column 7", "invalid literal"},
    {"infinity", "[Infinity]", "line 1, column 2", "invalid literal"},
    {"minus_infinity", "[-Infinity]", "line 1, column 3", "invalid number"},
    {"number_overflow", "[1e999]", "line 1, column", "number overflow"},
    {"leading_zero", "[01]", "line 1, column 3", "expected"},
    {"hexadecimal", "[0x10]", "line 1, column 3", "expected"},
    {"single_quotes", "{'a': 1}", "line 1, column 2", "invalid literal"},
    {"comment", "{\n  // learning rate\n}", "line 2, column 3", "invalid literal"},
    {"trailing_comma", "{\"a\": 1,\n}", "line 2, column 1", "expected string"},
    {"trailing_text", "{} x", "line 1, column 4", "expected end of input"},
    {"two_values", "{}\n{}", "line 2, column 1", "expected end of input"},
    {"unclosed", "{\"a\": [1, 2", "line 1, column 12", "expected"},
    {"cut_string", "{\"a\": \"bc", "line 1, column 10", "missing closing quote"},
    {"raw_tab_in_string", "[\"a\tb\"]", "line 1, column 4", "control character"},
    {"invalid_utf8", "[\"\xC3(\"]", "line 1, column", "UTF-8"},
    {"lone_surrogate", "[\"\\ud800\"]", "line 1, column", "surrogate"},
    {"nul_inside", std::string("{\"a\":\0 1}", 9), "line 1, column 6", "NUL byte"},
    {"nul_after", std::string("{}\0{}", 5), "line 1, column 3", "NUL byte"},
    {"same_key_twice", "{\"a\": 1,\n \"a\": 2}", "line 2, column 4", "the key \"a\" is given twice"},
    {"nested_key_twice", "{\"t\": {\"x\": [0, {\"r\": 1, \"r\": 2}]}}", "line 1, column 28",
     "the key \"t.x[1].r\" is given twice"},
    {"same_key_after_escape", "{\"a\": 1, \"\\u0061\": 2}", "line 1, column 17",
     "the key \"a\" is given twice"},
    {"column_counts_characters", "[\"\xC3\xA9\xC3\xA9\", ?]", "line 1, column 8", "invalid literal"},
};

INSTANTIATE_TEST_SUITE_P(bad_texts, RefusedJson, testing::ValuesIn(kBadTexts),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Json, keeps_the_order_of_keys) {
    const Json json = parse_json(R"({"z": 1, "a": {"q": 0, "b": [true, null]}, "m": -2.5})", "t");
    EXPECT_EQ(json.dump(), R"({"z":1,"a":{"q":0,"b":[true,null]},"m":-2.5})");
}

TEST(Json, keeps_integers_apart_from_numbers_with_a_point) {
    const Json json = parse_json("[1, 1.0, -9223372036854775808, 18446744073709551615]", "t");
    EXPECT_TRUE(json[0].is_number_integer());
    EXPECT_TRUE(json[1].is_number_float());
    EXPECT_EQ(json[2].get<std::int64_t>(), std::numeric_limits<std::int64_t>::min());
    EXPECT_EQ(json[3].get<std::uint64_t>(), std::numeric_limits<std::uint64_t>::max());
}

TEST(Json, accepts_nesting_up_to_the_limit_and_refuses_one_more) {
    const auto nested = [](int depth) {
        return std::string(static_cast<std::size_t>(depth), '[') +
               std::string(static_cast<std::size_t>(depth), ']');
    };
    EXPECT_NO_THROW(parse_json(nested(kMaxJsonDepth), "t"));
    EXPECT_NE(fault_of(nested(kMaxJsonDepth + 1)).find("nested deeper than 200"), std::string::npos);
    EXPECT_NE(fault_of(std::string(1'000'000, '[')).find("nested deeper than 200"), std::string::npos);
}

TEST(Json, finds_a_repeated_key_among_many) {
    std::string text = "{";
    for (int i = 0; i < 50'000; ++i) text += "\"k" + std::to_string(i) + "\": " + std::to_string(i) + ", ";
    const Json json = parse_json(text + "\"last\": 1}", "t");
    EXPECT_EQ(json.size(), 50'001U);
    EXPECT_NE(fault_of(text + "\"k31234\": 1}").find("\"k31234\" is given twice"), std::string::npos);
    EXPECT_NE(fault_of(text + "\"k3\": 1}").find("\"k3\" is given twice"), std::string::npos);
}

TEST(Json, a_long_bad_string_does_not_fill_the_message) {
    EXPECT_LT(fault_of("[\"" + std::string(1'000'000, 'x')).size(), 300U);
}

TEST(JsonFile, names_the_file_that_is_missing_or_a_folder_or_wrong) {
    const test::TempDir folder;
    const auto fault = [](const std::filesystem::path& file) {
        try {
            read_json_file(file);
        } catch (const ConfigError& error) {
            return std::string(error.what());
        }
        return std::string();
    };
    EXPECT_NE(fault(folder / "none.json").find("none.json: cannot open: No such file"), std::string::npos);
    EXPECT_NE(fault(folder.path()).find("is a folder"), std::string::npos);
    test::write_file(folder / "empty.json", "");
    EXPECT_NE(fault(folder / "empty.json").find("empty.json: line 1, column 1"), std::string::npos);
    test::write_file(folder / "good.json", "{\"a\": [1]}");
    EXPECT_EQ(read_json_file(folder / "good.json").dump(), "{\"a\":[1]}");
}

}  // namespace
}  // namespace qlora
