// Twenty kinds of damage, each in the first, the middle and the last row of a file.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "data/fake_tokenizer.h"
#include "qlora/core/error.h"
#include "qlora/data/sft_dataset.h"
#include "support/temp_dir.h"

namespace {

using namespace qlora;
using namespace qlora::data;
using data::test::FakeTokenizer;
using qlora::test::TempDir;
using qlora::test::write_file;

enum class Verdict { kKept, kPassedOver, kTooLong, kRejected };

struct BadRow {
    std::string name;
    std::string bytes;  // without the line end
    Verdict verdict = Verdict::kRejected;
    std::string reason;  // part of the message
};

std::string row_with(const std::string& answer) {
    return R"({"instruction": "Say it.", "output": ")" + answer + "\"}";
}

std::string nested(int depth) {
    return R"({"text": "a", "x": )" + std::string(static_cast<std::size_t>(depth), '[') +
           std::string(static_cast<std::size_t>(depth), ']') + "}";
}

std::vector<BadRow> bad_rows() {
    return {
        {"cut_line", R"({"instruction": "Say it.", "output": "he)", Verdict::kRejected, "not valid JSON"},
        {"nul_bytes", R"({"text": "a)" + std::string(3, '\0') + "\"}", Verdict::kRejected,
         "a NUL byte at byte 12"},
        {"invalid_utf8", row_with("\xff\xfe"), Verdict::kRejected, "not valid JSON"},
        {"lone_surrogate", row_with("\\ud800"), Verdict::kRejected, "not valid JSON"},
        {"byte_order_mark", "\xEF\xBB\xBF" + row_with("hello"), Verdict::kRejected,
         "a byte order mark inside the file"},
        {"crlf", row_with("hello") + "\r", Verdict::kKept, ""},
        {"empty_line", "", Verdict::kPassedOver, ""},
        {"empty_list", "[]", Verdict::kRejected, "must be a JSON object, found a list"},
        {"wrong_type", R"({"instruction": "Say it.", "output": 3})", Verdict::kRejected,
         "\"output\" must be a string, found a number"},
        {"missing_field", R"({"instruction": "Say it."})", Verdict::kRejected,
         "(\"instruction\") fit no format"},
        {"duplicate_key", R"({"instruction": "Say it.", "output": "a", "output": "b"})", Verdict::kRejected,
         "\"output\" is given twice"},
        {"ten_megabytes", row_with(std::string(10 << 20, 'x')), Verdict::kTooLong, ""},
        {"deep_nesting", nested(1000), Verdict::kRejected, "nested deeper than"},
        {"number_overflow", R"({"text": "a", "x": 1e999})", Verdict::kRejected, "not valid JSON"},
        {"nan_literal", R"({"text": "a", "x": NaN})", Verdict::kRejected, "not valid JSON"},
        {"unknown_role", R"({"messages": [{"role": "wizard", "content": "a"}]})", Verdict::kRejected,
         "unknown role \"wizard\""},
        {"empty_answer", row_with(""), Verdict::kRejected, "is empty"},
        {"only_system", R"({"messages": [{"role": "system", "content": "a"}]})", Verdict::kRejected,
         "only a system message"},
        {"no_line_end", row_with("hello"), Verdict::kKept, ""},
        {"two_objects", row_with("a") + " " + row_with("b"), Verdict::kRejected, "not valid JSON"},
    };
}

Dataset load(const std::filesystem::path& file, OnBadRow on_bad_row) {
    static const FakeTokenizer tokenizer;
    static const PromptTemplate prompt_template(TemplateName::kChatml, std::nullopt, tokenizer,
                                                tokenizer.special());
    DataConfig config;
    config.on_bad_row = on_bad_row;
    return load_dataset({file}, config, prompt_template, tokenizer.vocab_size());
}

class BadRows : public testing::TestWithParam<std::tuple<BadRow, int>> {};

TEST_P(BadRows, GetTheirVerdictAtTheirLine) {
    auto [bad, position] = GetParam();
    if (bad.name == "byte_order_mark" && position == 0) bad.verdict = Verdict::kKept;
    const TempDir folder;
    std::string bytes;
    for (int i = 0; i < 3; ++i) {
        bytes += i == position ? bad.bytes : row_with("good");
        if (bad.name == "no_line_end" && i == position) break;  // the file ends here
        bytes += "\n";
    }
    const std::filesystem::path file = folder / "rows.jsonl";
    write_file(file, bytes);
    const int rows = bad.name == "no_line_end" ? position + 1 : 3;
    const std::string place = file.string() + ":" + std::to_string(position + 1);

    const Dataset dataset = load(file, OnBadRow::kSkip);
    const DatasetStatistics& statistics = dataset.statistics;
    EXPECT_EQ(statistics.read, statistics.kept + statistics.dropped() + statistics.rejected);
    EXPECT_EQ(statistics.read, bad.verdict == Verdict::kPassedOver ? rows - 1 : rows);
    EXPECT_EQ(statistics.kept, bad.verdict == Verdict::kKept ? rows : rows - 1);
    EXPECT_EQ(statistics.too_long, bad.verdict == Verdict::kTooLong ? 1 : 0);
    EXPECT_EQ(statistics.rejected, bad.verdict == Verdict::kRejected ? 1 : 0);
    int line = 0;
    for (const Example& example : dataset.examples) {
        ++line;
        if (line == position + 1 && bad.verdict != Verdict::kKept) ++line;
        EXPECT_EQ(example.place, file.string() + ":" + std::to_string(line));
    }

    if (bad.verdict != Verdict::kRejected) {
        EXPECT_NO_THROW(load(file, OnBadRow::kStop));
        return;
    }
    ASSERT_EQ(dataset.rejected.size(), 1U);
    EXPECT_EQ(dataset.rejected[0].place, place);
    EXPECT_NE(dataset.rejected[0].reason.find(bad.reason), std::string::npos) << dataset.rejected[0].reason;
    try {
        load(file, OnBadRow::kStop);
        FAIL() << "must stop";
    } catch (const DataError& error) {
        EXPECT_NE(std::string(error.what()).find("1 of 3 rows"), std::string::npos) << error.what();
        EXPECT_NE(std::string(error.what()).find(place + ": " + dataset.rejected[0].reason),
                  std::string::npos);
    }
}

std::string name_of_case(const testing::TestParamInfo<std::tuple<BadRow, int>>& case_info) {
    const char* const positions[] = {"first", "middle", "last"};
    return std::get<0>(case_info.param).name + "_" + positions[std::get<1>(case_info.param)];
}

INSTANTIATE_TEST_SUITE_P(Twenty, BadRows,
                         testing::Combine(testing::ValuesIn(bad_rows()), testing::Values(0, 1, 2)),
                         name_of_case);

TEST(BadRowsOfAFile, AHugeLineOfNulsIsRefusedFastAndInBoundedMemory) {
    constexpr std::int64_t kNuls = 239'075'328;
    const TempDir folder;
    const std::filesystem::path file = folder / "rows.jsonl";
    write_file(file, row_with("good") + "\n");
    const std::uintmax_t begin = std::filesystem::file_size(file);
    std::filesystem::resize_file(file, begin + kNuls);  // sparse: reads as NUL bytes
    std::ofstream(file, std::ios::binary | std::ios::app) << "\n" << row_with("good") << "\n";

    const auto peak_kib = [] {
        rusage usage{};
        getrusage(RUSAGE_SELF, &usage);
        return usage.ru_maxrss;
    };
    const long before = peak_kib();
    const std::clock_t start = std::clock();  // of the processor, which other programs may use too
    const Dataset dataset = load(file, OnBadRow::kSkip);
    const double took = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_EQ(dataset.statistics.kept, 2);
    ASSERT_EQ(dataset.rejected.size(), 1U);
    EXPECT_EQ(dataset.rejected[0].place, file.string() + ":2");
    EXPECT_LT(took, 2.0);
    EXPECT_LT(peak_kib() - before, 16 * 1024);
}

TEST(BadRowsOfAFile, AHugeLineOfTextIsRefusedInBoundedMemory) {
    const TempDir folder;
    const std::filesystem::path file = folder / "rows.jsonl";
    {
        std::ofstream out(file, std::ios::binary);
        const std::string mebibyte(std::size_t{1} << 20, 'x');
        out << R"({"text": ")";
        for (int i = 0; i < 65; ++i) out << mebibyte;
        out << "\"}\n" << row_with("good") << "\n";
    }
    const Dataset dataset = load(file, OnBadRow::kSkip);
    EXPECT_EQ(dataset.statistics.kept, 1);
    ASSERT_EQ(dataset.rejected.size(), 1U);
    EXPECT_EQ(dataset.rejected[0].reason, "the row is longer than 64 MiB");
    EXPECT_LE(dataset.rejected[0].text.size(), 300U);
}

TEST(BadRowsOfAFile, TheFirstTwentyAreListedAndAllCounted) {
    const TempDir folder;
    std::string bytes;
    for (int i = 0; i < 25; ++i) bytes += "[]\n";
    write_file(folder / "rows.jsonl", bytes + row_with("good"));
    try {
        load(folder / "rows.jsonl", OnBadRow::kStop);
        FAIL() << "must stop";
    } catch (const DataError& error) {
        const std::string message = error.what();
        EXPECT_NE(message.find("25 of 26 rows"), std::string::npos);
        EXPECT_NE(message.find("rows.jsonl:20: "), std::string::npos);
        EXPECT_EQ(message.find("rows.jsonl:21: "), std::string::npos);
        EXPECT_NE(message.find("and 5 more"), std::string::npos);
    }
}

TEST(BadRowsOfAFile, ATemplateThatUsesUpItsLimitsStopsAfterSomeRows) {
    const TempDir folder;
    const FakeTokenizer tokenizer;
    const PromptTemplate prompt_template(
        TemplateName::kAuto,
        "{% if messages[0].content == 'long' %}{% for i in range(100001) %}{% endfor %}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>\n{% endfor %}",
        tokenizer, tokenizer.special());
    const auto load_rows = [&](int count) {
        const auto row = [](const std::string& text) {
            return R"({"messages": [{"role": "user", "content": ")" + text +
                   R"("}, {"role": "assistant", "content": "b"}]})" + "\n";
        };
        std::string bytes = row("short");
        for (int i = 0; i < count; ++i) bytes += row("long");
        write_file(folder / "rows.jsonl", bytes);
        DataConfig config;
        config.on_bad_row = OnBadRow::kSkip;
        return load_dataset({folder / "rows.jsonl"}, config, prompt_template, tokenizer.vocab_size(),
                            {.threads = 2});
    };
    EXPECT_EQ(load_rows(49).statistics.rejected, 49);
    try {
        load_rows(5000);
        FAIL() << "must stop";
    } catch (const CheckpointError& error) {
        EXPECT_NE(std::string(error.what()).find("a range of more than 100000 items"), std::string::npos)
            << error.what();
    }
}

}  // namespace
