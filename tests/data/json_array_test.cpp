#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "data/row_source.h"
#include "qlora/core/error.h"
#include "support/temp_dir.h"

namespace {

using namespace qlora;
using namespace qlora::data;

struct Row {
    std::string text;
    std::int64_t line;
    std::string fault;
    bool operator==(const Row&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Row& row) {
    return out << row.line << ": " << row.text << " [" << row.fault << "]";
}

std::vector<Row> rows_of(const std::string& bytes) {
    const qlora::test::TempDir folder;
    qlora::test::write_file(folder / "rows.json", bytes);
    Xxh3 hash;
    const auto source = open_rows(folder / "rows.json", hash);
    std::vector<Row> rows;
    std::int64_t element = 0;
    for (RawRow raw; source->next(raw);) {
        EXPECT_EQ(raw.element, element++);
        rows.push_back({std::string(raw.text), raw.line, raw.fault});
    }
    Xxh3 expected;
    expected.update(bytes);
    EXPECT_EQ(hash.hex(), expected.hex());  // every byte counts, also behind damage
    return rows;
}

using Rows = std::vector<Row>;

TEST(JsonArray, CutsOutElementsWithTheirLines) {
    EXPECT_EQ(rows_of("[\n{\"a\": 1},\n {\"b\":\n[2]}\n,{\"c\": \"],}\\\"\"}]\n"),
              (Rows{{"{\"a\": 1}", 2, ""}, {"{\"b\":\n[2]}", 3, ""}, {"{\"c\": \"],}\\\"\"}", 5, ""}}));
}

TEST(JsonArray, TakesOneLineAndAByteOrderMark) {
    EXPECT_EQ(rows_of("\xEF\xBB\xBF[{},{}]"), (Rows{{"{}", 1, ""}, {"{}", 1, ""}}));
}

TEST(JsonArray, PassesScalarsOnAsRows) {
    EXPECT_EQ(rows_of("[1, \"a,b\" ,null]"), (Rows{{"1", 1, ""}, {"\"a,b\"", 1, ""}, {"null", 1, ""}}));
}

TEST(JsonArray, EmptyListHasNoRows) {
    EXPECT_EQ(rows_of(" [ \n ] "), Rows{});
}

TEST(JsonArray, ACutFileIsTheLastRowsFault) {
    const Rows rows = rows_of("[{\"a\": 1},\n{\"b\": \"lo");
    ASSERT_EQ(rows.size(), 2U);
    EXPECT_EQ(rows[0].fault, "");
    EXPECT_EQ(rows[1].line, 2);
    EXPECT_NE(rows[1].fault.find("ends inside this row"), std::string::npos);
}

TEST(JsonArray, AMissingEndIsAFault) {
    const Rows rows = rows_of("[{}\n");
    ASSERT_EQ(rows.size(), 2U);
    EXPECT_NE(rows[1].fault.find("before the list does"), std::string::npos);
}

TEST(JsonArray, DamageBetweenRowsIsAFault) {
    EXPECT_EQ(rows_of("[{} {}]").back().fault, "a comma or \"]\" must follow a row");
    EXPECT_EQ(rows_of("[{},]").back().fault, "a comma before the end of the list");
    EXPECT_EQ(rows_of("[,{}]").back().fault, "a row is missing before this place");
    EXPECT_EQ(rows_of("[{},,{}]").back().fault, "a row is missing before this place");
    EXPECT_EQ(rows_of("[{}]\nx").back(), (Row{"", 2, "text follows the end of the list"}));
}

TEST(JsonArray, ARowWithNulBytesSpoilsNoOther) {
    const Rows rows = rows_of(std::string("[{\"a\": \"") + '\0' + "\"},\n{}]");
    ASSERT_EQ(rows.size(), 2U);
    EXPECT_NE(rows[0].fault.find("a NUL byte"), std::string::npos);
    EXPECT_EQ(rows[1], (Row{"{}", 2, ""}));
}

TEST(JsonArray, OtherFilesAreRefusedWithAdvice) {
    EXPECT_THROW(rows_of("{\"a\":\n 1}\n{\"a\": 2}\n"), DataError);
    EXPECT_THROW(rows_of("text"), DataError);
    EXPECT_THROW(rows_of(std::string(100, '\0')), DataError);
    Xxh3 hash;
    EXPECT_THROW(open_rows("rows.csv", hash), DataError);
    EXPECT_THROW(open_rows("no_such_file.jsonl", hash), DataError);
    EXPECT_THROW(open_rows("/", hash), DataError);
}

TEST(JsonArray, RowsLongerThanAReadAreWhole) {
    const std::string big = "{\"a\": \"" + std::string((std::size_t{3} << 20) + 17, ']') + "\"}";
    EXPECT_EQ(rows_of("[" + big + ",\n" + big + "]"), (Rows{{big, 1, ""}, {big, 2, ""}}));
}

}  // namespace
