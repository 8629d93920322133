// Folders and patterns in data paths stand for files, in a fixed order.
#include "qlora/data/data_files.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "qlora/core/error.h"
#include "support/temp_dir.h"

namespace {

using namespace qlora;
using namespace qlora::data;
namespace fs = std::filesystem;

class DataFiles : public testing::Test {
  protected:
    DataFiles() {
        fs::create_directory(folder_ / "sub.jsonl");
        for (const char* name : {"b.jsonl", "a.csv.gz", "B.parquet", "notes.txt", ".hidden.jsonl",
                                 "a[1].json", "a1.json", "sub.jsonl/c.tsv"})
            qlora::test::write_file(folder_ / name, "x");
    }
    std::vector<std::string> named(const std::vector<std::string>& paths) const {
        std::vector<fs::path> all;
        for (const std::string& path : paths) all.push_back(folder_ / path);
        std::vector<std::string> out;
        for (const fs::path& file : data_files(all))
            out.push_back(fs::relative(file, folder_.path()).string());
        return out;
    }

    qlora::test::TempDir folder_;
};

using Names = std::vector<std::string>;

TEST_F(DataFiles, AFolderIsItsDataFilesByName) {
    EXPECT_EQ(named({""}), (Names{"B.parquet", "a.csv.gz", "a1.json", "a[1].json", "b.jsonl"}));
    EXPECT_EQ(named({"sub.jsonl"}), (Names{"sub.jsonl/c.tsv"}));
}

TEST_F(DataFiles, APatternIsWhatItMatchesByName) {
    EXPECT_EQ(named({"*.json*"}), (Names{"a1.json", "a[1].json", "b.jsonl", "sub.jsonl/c.tsv"}));
    EXPECT_EQ(named({"[ab].*", "?.jsonl"}), (Names{"a.csv.gz", "b.jsonl", "b.jsonl"}));
    EXPECT_EQ(named({"*/*.tsv"}), (Names{"sub.jsonl/c.tsv"}));
    // What a pattern matches is not sifted: reading it says that its name is none of a data file.
    EXPECT_EQ(named({"n*"}), (Names{"notes.txt"}));
}

TEST_F(DataFiles, AFileThatIsThereIsNoPattern) {
    EXPECT_EQ(named({"a[1].json"}), (Names{"a[1].json"}));
    EXPECT_EQ(named({"b.jsonl", "a1.json", "b.jsonl"}), (Names{"b.jsonl", "a1.json", "b.jsonl"}));
}

TEST_F(DataFiles, WhatNamesNothingIsNamedAllTogether) {
    fs::create_directory(folder_ / "empty");
    try {
        named({"none.jsonl", "*.none", "b.jsonl", "empty"});
        FAIL() << "must be refused";
    } catch (const DataError& error) {
        const std::string message = error.what(), in = folder_.path().string() + "/";
        EXPECT_NE(message.find("there is no " + in + "none.jsonl"), std::string::npos) << message;
        EXPECT_NE(message.find("the pattern " + in + "*.none matches no file"), std::string::npos) << message;
        EXPECT_NE(message.find("the folder " + in + "empty holds no data file"), std::string::npos)
            << message;
    }
    EXPECT_EQ(fault_of_data_path(folder_ / "b.jsonl"), "");
    EXPECT_NE(fault_of_data_path(folder_ / "*.none"), "");
}

}  // namespace
