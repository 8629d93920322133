// Tables of text as RFC 4180 has them: cells become fields, and each fault names its line.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "data/source_rows.h"
#include "qlora/core/json.h"

namespace {

using namespace qlora;
using namespace qlora::data;
using data::test::refusal;
using data::test::rows_of_file;
using data::test::SourceRow;
using data::test::SourceRows;

TEST(DelimitedRows, CellsBecomeFields) {
    EXPECT_EQ(rows_of_file("rows.csv", "prompt,completion\nHi,\"a, \"\"b\"\"\n\tc\"\n x ,y"),
              (SourceRows{{R"({"prompt": "Hi", "completion": "a, \"b\"\n\u0009c"})", 2, -1, ""},
                          {R"({"prompt": " x ", "completion": "y"})", 4, -1, ""}}));
    EXPECT_EQ(rows_of_file("rows.tsv", "a\tb\n1,2\t\"x\ty\"\n"),
              (SourceRows{{R"({"a": "1,2", "b": "x\u0009y"})", 2, -1, ""}}));
    EXPECT_EQ(rows_of_file("rows.csv", "\"a\",\"b \"\"c\"\"\"\n1,2\n"),
              (SourceRows{{R"({"a": "1", "b \"c\"": "2"})", 2, -1, ""}}));
    EXPECT_EQ(rows_of_file("rows.csv", "text\n\xEC\x95\x88\n"),
              (SourceRows{{"{\"text\": \"\xEC\x95\x88\"}", 2, -1, ""}}));
}

TEST(DelimitedRows, AnEmptyCellIsAbsent) {
    EXPECT_EQ(rows_of_file("rows.csv", "a,b,c\n,1,\n\"\",,2\n"),
              (SourceRows{{R"({"b": "1"})", 2, -1, ""}, {R"({"c": "2"})", 3, -1, ""}}));
}

TEST(DelimitedRows, AQuoteInsideAnUnquotedCellStandsForItself) {
    EXPECT_EQ(rows_of_file("rows.csv", "a,b\n5\" disk, \"x\n"),
              (SourceRows{{R"({"a": "5\" disk", "b": " \"x"})", 2, -1, ""}}));
}

TEST(DelimitedRows, LinesEndAsInAnySystemAndBlankOnesAreCountedAndPassedOver) {
    for (const std::string end : {"\n", "\r\n", "\r"}) {
        const std::string bytes = "\xEF\xBB\xBF" + end + "a,b" + end + "1,2" + end + end + "  " + end + "3,4";
        EXPECT_EQ(rows_of_file("rows.csv", bytes), (SourceRows{{R"({"a": "1", "b": "2"})", 3, -1, ""},
                                                               {R"({"a": "3", "b": "4"})", 6, -1, ""}}));
        EXPECT_EQ(rows_of_file("rows.csv", bytes + end).size(), 2U);
    }
    EXPECT_EQ(rows_of_file("rows.csv", "a\n\"\"\n"), (SourceRows{{"{}", 2, -1, ""}}));
    EXPECT_EQ(rows_of_file("rows.csv", "a,b\n"), SourceRows{});
    EXPECT_EQ(rows_of_file("rows.csv", ""), SourceRows{});
}

TEST(DelimitedRows, TheHeaderTellsAnotherSeparator) {
    const SourceRows expected = {{R"({"a": "1", "b, c": "2"})", 2, -1, ""}};
    EXPECT_EQ(rows_of_file("rows.csv", "a;\"b, c\"\n1;2\n"), expected);
    EXPECT_EQ(rows_of_file("rows.csv", "a\t\"b, c\"\n1\t2\n"), expected);
    EXPECT_EQ(rows_of_file("rows.tsv", "a,\"b, c\"\n1,2\n"), expected);
    EXPECT_EQ(rows_of_file("rows.csv", "a;b,c\n1,2\n"),
              (SourceRows{{R"({"a;b": "1", "c": "2"})", 2, -1, ""}}));
}

// Formats read the JSON text of a list where a field can only be one; text may begin with a bracket.
TEST(DelimitedRows, ACellOfAPromptMayHoldMessages) {
    EXPECT_EQ(rows_of_file("rows.tsv",
                           "prompt\tcompletion\n[1, 2]\t[INST]\n[{'role': 1}]\t [{\"role\": \"user\"}]\n"),
              (SourceRows{{R"({"prompt": "[1, 2]", "completion": "[INST]"})", 2, -1, ""},
                          {R"({"prompt": "[{'role': 1}]", "completion":  [{"role": "user"}]})", 3, -1, ""}}));
    EXPECT_EQ(rows_of_file("rows.tsv", "input\n[{\"role\": \"user\"}]\n"),
              (SourceRows{{R"({"input": "[{\"role\": \"user\"}]"})", 2, -1, ""}}));
}

TEST(DelimitedRows, AHeaderMustNameEachFieldOnce) {
    const auto said = [](const std::string& bytes) { return refusal("rows.csv", bytes); };
    EXPECT_NE(said("a,a\n").find("rows.csv:1: the header names \"a\" twice"), std::string::npos);
    EXPECT_NE(said("\n,a,\n").find("rows.csv:2: column 1 of the header has no name (to_csv of pandas"),
              std::string::npos);
    EXPECT_NE(said(",a,\n").find("; column 3 of the header has no name"), std::string::npos);
    EXPECT_NE(said("sep=;\na;b\n").find("rows.csv:1: the line \"sep=\" tells Excel the separator"),
              std::string::npos);
    EXPECT_NE(said("a,\xFF\n").find("rows.csv:1: column 2 of the header is not UTF-8"), std::string::npos);
    EXPECT_NE(said("a,\"b\n1,2\n")
                  .find("rows.csv:1: the header: the quote that opens a cell in line 1 is never closed"),
              std::string::npos);
    EXPECT_NE(said(std::string(200'000, ',')).find("more than 100000 cells"), std::string::npos);
}

// Whatever cells hold, what is written as RFC 4180 says is read back, also across the pieces in which files
// are read.
TEST(DelimitedRows, WhatIsWrittenIsReadBack) {
    std::mt19937 random(7);
    const std::string alphabet = "ab ,;\"\"\"\n\n\r\t";
    for (int round = 0; round < 60; ++round) {
        const std::size_t columns = 1 + random() % 4;
        const std::size_t longest = round % 10 == 0 ? 90'000 : 12;
        std::string bytes;
        std::vector<Json> expected;
        const auto write = [&](const std::string& cell, bool quoted, bool last) {
            std::string text = cell;
            if (quoted) {
                text = "\"";
                for (const char c : cell) text += c == '"' ? "\"\"" : std::string(1, c);
                text += '"';
            }
            bytes += text + (last ? (random() % 2 == 0 ? "\n" : "\r\n") : ",");
        };
        for (std::size_t i = 0; i < columns; ++i) write("name" + std::to_string(i), false, i + 1 == columns);
        for (int row = 0; row < 30; ++row) {
            Json object = Json::object();
            for (std::size_t i = 0; i < columns; ++i) {
                std::string cell;
                for (std::size_t n = random() % longest; n > 0; --n)
                    cell += alphabet[random() % alphabet.size()];
                const bool is_plain = cell.find_first_of(",;\"\n\r") == std::string::npos &&
                                      cell.find_first_not_of(" \t") != std::string::npos;
                write(cell, !is_plain || random() % 2 == 0, i + 1 == columns);
                if (!cell.empty()) object["name" + std::to_string(i)] = cell;
            }
            expected.push_back(object);
        }
        const SourceRows rows = rows_of_file("rows.csv", bytes);
        ASSERT_EQ(rows.size(), expected.size());
        for (std::size_t i = 0; i < rows.size(); ++i) {
            ASSERT_EQ(rows[i].fault, "");
            ASSERT_EQ(parse_json(rows[i].text, ""), expected[i]);
        }
    }
}

struct BadCells {
    const char* name;
    std::string line;
    std::string fault;
};

// Each in the first, the middle and the last row: the others are kept, and the line is right.
TEST(DelimitedRows, ABadRowSpoilsNoOther) {
    const BadCells kinds[] = {
        {"too few", "1", "1 cell, but the header has 2"},
        {"too many", "1,2,3", "3 cells, but the header has 2"},
        {"text behind a quote", "\"1\"x,2", "text follows the closing quote of cell 1"},
        {"quote not doubled", "1,\"say \"hi\" now\"", "text follows the closing quote of cell 2"},
        {"header again", "\"a\",b", "the row repeats the header"},
        {"not UTF-8", "1,ab\xFF", "byte 3 of the cell of \"b\" is not UTF-8"},
        {"NUL", std::string("1,a\0b", 5), "a NUL byte at byte 3 of the row"},
        {"huge", "1," + std::string((std::size_t{64} << 20) + 1, 'x'), "the row is longer than 64 MiB"},
    };
    for (const BadCells& kind : kinds) {
        for (int position = 0; position < 3; ++position) {
            std::string bytes = "a,b\n";
            for (int i = 0; i < 3; ++i) bytes += i == position ? kind.line + "\n" : "\"x\ny\",2\n";
            const SourceRows rows = rows_of_file("rows.csv", bytes);
            ASSERT_EQ(rows.size(), 3U) << kind.name;
            for (int i = 0; i < 3; ++i) {
                const SourceRow& row = rows[static_cast<std::size_t>(i)];
                EXPECT_EQ(row.line, 2 + 2 * i - (i > position ? 1 : 0)) << kind.name;
                EXPECT_EQ(row.fault.empty(), i != position) << kind.name << row;
            }
            const std::string& fault = rows[static_cast<std::size_t>(position)].fault;
            EXPECT_NE(fault.find(kind.fault), std::string::npos) << kind.name << ": " << fault;
        }
    }
}

TEST(DelimitedRows, AQuoteThatIsNeverClosedTakesTheRestAndIsNamed) {
    const SourceRows rows = rows_of_file("rows.csv", "a,b\n1,2\n3,\"4\n5,6\n");
    ASSERT_EQ(rows.size(), 2U);
    EXPECT_EQ(rows[1].line, 3);
    EXPECT_EQ(rows[1].fault, "the quote that opens a cell in line 3 is never closed");
}

}  // namespace
