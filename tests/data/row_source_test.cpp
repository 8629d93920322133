// Rows are read as what a file holds, whatever its name says.
#include "data/row_source.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "data/source_rows.h"
#include "qlora/core/error.h"
#include "support/temp_dir.h"

namespace {

using namespace qlora;
using namespace qlora::data;
using data::test::refusal;
using data::test::rows_of_file;
using data::test::SourceRows;
using qlora::test::TempDir;

TEST(RowSource, AnArrayIsReadWhateverTheName) {
    for (const char* name : {"rows.jsonl", "rows.json"}) {
        EXPECT_EQ(rows_of_file(name, "[\n{\"a\": 1},\n{\"b\": 2}\n]\n"),
                  (SourceRows{{"{\"a\": 1}", 2, 0, ""}, {"{\"b\": 2}", 3, 1, ""}}));
        EXPECT_EQ(rows_of_file(name, "[{\"a\": 1}, {\"b\": 2}]"),
                  (SourceRows{{"{\"a\": 1}", 1, 0, ""}, {"{\"b\": 2}", 1, 1, ""}}));
        EXPECT_EQ(rows_of_file(name, "\xEF\xBB\xBF \n[{}]"), (SourceRows{{"{}", 2, 0, ""}}));
    }
}

TEST(RowSource, LinesAreReadWhateverTheName) {
    for (const char* name : {"rows.jsonl", "rows.json"}) {
        EXPECT_EQ(rows_of_file(name, "{\"a\": \"}\\\"\"}\n\n{\"b\": [\n"),
                  (SourceRows{{"{\"a\": \"}\\\"\"}", 1, -1, ""}, {"{\"b\": [", 3, -1, ""}}));
        EXPECT_EQ(rows_of_file(name, "{}"), (SourceRows{{"{}", 1, -1, ""}}));
        EXPECT_EQ(rows_of_file(name, "\xEF\xBB\xBF{}\n\xEF\xBB\xBF{}").at(1).fault,
                  "a byte order mark inside the file; it may only begin it");
    }
}

TEST(RowSource, AFirstRowLongerThanAReadTellsToo) {
    const std::string big = "{\"a\": \"" + std::string(std::size_t{200} << 10, 'x') + "\"}";
    EXPECT_EQ(rows_of_file("rows.json", big + "\n{}\n"), (SourceRows{{big, 1, -1, ""}, {"{}", 2, -1, ""}}));
    EXPECT_EQ(rows_of_file("rows.jsonl", "[" + big + ",\n{}]"),
              (SourceRows{{big, 1, 0, ""}, {"{}", 2, 1, ""}}));
}

TEST(RowSource, TheNameTellsWhereTheBeginningDoesNot) {
    const std::string blanks(std::size_t{70} << 10, '\n');
    EXPECT_EQ(rows_of_file("rows.json", blanks + "[{}]").at(0).element, 0);
    EXPECT_EQ(rows_of_file("rows.jsonl", blanks + "{}").at(0).element, -1);
    // Lists are bad rows, each of them; a damaged array is one.
    EXPECT_EQ(rows_of_file("rows.jsonl", "[]\n{}\n").size(), 2U);
    // A first line that was cut off costs one row, not all.
    EXPECT_EQ(rows_of_file("rows.jsonl", "[{\"a\": \"x\n{}\n{}\n").size(), 3U);
    EXPECT_EQ(rows_of_file("rows.jsonl", "[\n{},\n{}\n]\n").size(), 2U);
    EXPECT_EQ(rows_of_file("rows.json", "[]\n{}\n").at(0).fault, "text follows the end of the list");
    EXPECT_EQ(rows_of_file("rows.jsonl", "x\n").at(0).text, "x");
    EXPECT_NE(refusal("rows.json", "x\n").find("rows.json:1: a data file must hold a list of rows"),
              std::string::npos);
}

TEST(RowSource, OneObjectOverSeveralLinesIsNoListOfRows) {
    const std::string message = refusal("rows.json", "\n{\"rows\":\n [{}]}");
    EXPECT_NE(message.find("rows.json:2: an object that goes over several lines"), std::string::npos)
        << message;
}

TEST(RowSource, AGitLfsPointerIsNamed) {
    const std::string pointer =
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, 'a') + "\nsize 5\n";
    for (const char* name : {"rows.jsonl", "rows.json"}) {
        const std::string message = refusal(name, pointer);
        EXPECT_NE(message.find(std::string(name) + ": is a Git LFS pointer"), std::string::npos) << message;
    }
}

TEST(RowSource, WhatIsNoDataFileIsNamed) {
    const std::pair<std::string, std::string> files[] = {
        {"<!DOCTYPE html>\n<html><body>404", "is a web page"},
        {"\n <html lang=\"en\">", "is a web page"},
        {std::string("PK\x03\x04\x14\0", 6), "is a zip archive"},
        {"BZh91AY&SY", "is compressed by bzip2"},
        {std::string("\xfd"
                     "7zXZ\0",
                     6),
         "is compressed by xz"},
        {std::string("\xff\xfe{\0", 4), "is UTF-16 text"},
        {std::string("{\0\"\0", 4), "is UTF-16 text"},
        {std::string("\0{\0\"", 4), "is UTF-16 text"},
        {std::string("ARROW1\0\0", 8), "is an Arrow file"},
        {"\xff\xff\xff\xff\x10", "is an Arrow stream"},
        {std::string("SQLite format 3\0", 16), "is an SQLite database"},
    };
    for (const auto& [bytes, expected] : files) {
        for (const char* name : {"rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "rows.jsonl.gz"}) {
            const std::string message = refusal(name, bytes);
            EXPECT_NE(message.find(std::string(name) + ": " + expected), std::string::npos) << message;
        }
    }
}

TEST(RowSource, AnEncryptedParquetFileIsNamed) {
    EXPECT_NE(refusal("rows.parquet", "PARE....PARE").find("is an encrypted Parquet file"),
              std::string::npos);
    EXPECT_EQ(refusal("rows.csv", "PARENT,b\n1,2\n"), "");
}

TEST(RowSource, TheNameMustBeOfADataFile) {
    for (const char* name : {"rows", "rows.txt", "rows.xlsx", "rows.gz", "rows.jsonl.bz2", "jsonl"}) {
        const std::string message = refusal(name, "{}\n");
        EXPECT_NE(message.find(std::string(name) + ": the name must end in .jsonl"), std::string::npos)
            << message;
    }
    EXPECT_EQ(rows_of_file("ROWS.JSONL", "{}\n").size(), 1U);
}

TEST(RowSource, AFileNamedAsATableOrParquetIsReadAsTheJsonThatItHolds) {
    for (const char* name : {"rows.csv", "rows.tsv", "rows.parquet"}) {
        EXPECT_EQ(rows_of_file(name, "{\"a\": \"x,\"}\n{}\n"),
                  (SourceRows{{"{\"a\": \"x,\"}", 1, -1, ""}, {"{}", 2, -1, ""}}));
        EXPECT_EQ(rows_of_file(name, "[{\"a\": 1},\n{}]"),
                  (SourceRows{{"{\"a\": 1}", 1, 0, ""}, {"{}", 2, 1, ""}}));
    }
    EXPECT_EQ(rows_of_file("rows.csv", "[id],{x}\n1,2\n"),
              (SourceRows{{"{\"[id]\": \"1\", \"{x}\": \"2\"}", 2, -1, ""}}));
    EXPECT_NE(refusal("rows.parquet", "a,b\n1,2\n").find("does not begin as one does (PAR1)"),
              std::string::npos);
}

// What a pipe gives at a time is less than what tells the layout.
TEST(RowSource, APipeIsReadInWholePieces) {
    const TempDir folder;
    const std::filesystem::path file = folder / "rows.jsonl";
    ASSERT_EQ(::mkfifo(file.c_str(), 0600), 0);
    std::thread writer([&] {
        std::ofstream out(file, std::ios::binary);
        for (const char* part : {"\xEF", "\xBB\xBF", "[{\"a\": 1}", ", {}]"}) out << part << std::flush;
    });
    const SourceRows rows = rows_of_file(file);
    writer.join();
    EXPECT_EQ(rows, (SourceRows{{"{\"a\": 1}", 1, 0, ""}, {"{}", 1, 1, ""}}));
}

}  // namespace
