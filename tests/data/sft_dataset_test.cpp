#include "qlora/data/sft_dataset.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "data/fake_tokenizer.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/data/preview.h"
#include "support/temp_dir.h"

namespace {

using namespace qlora;
using namespace qlora::data;
using data::test::FakeTokenizer;
using qlora::test::read_file;
using qlora::test::TempDir;
using qlora::test::write_file;

const FakeTokenizer kTokenizer;

std::string pair(const std::string& prompt, const std::string& completion) {
    return Json({{"prompt", prompt}, {"completion", completion}}).dump() + "\n";
}

class SftDataset : public testing::Test {
  protected:
    Dataset load(const std::string& rows, const DataConfig& config, TemplateName name = TemplateName::kNone,
                 bool adds_bos = false, std::int64_t embedding_rows = 400, const RowReading& reading = {}) {
        write_file(file_, rows);
        const FakeTokenizer tokenizer(adds_bos);
        const PromptTemplate prompt_template(name, std::nullopt, tokenizer, tokenizer.special());
        return load_dataset({file_}, config, prompt_template, embedding_rows, reading);
    }

    TempDir folder_;
    std::filesystem::path file_ = folder_ / "rows.jsonl";
    DataConfig config_;
};

TEST_F(SftDataset, ARowBecomesTokensMaskAndWhatGenerationNeeds) {
    const Dataset dataset = load(R"({"prompt": "ab", "completion": "cd", "task": "t"})", config_);
    ASSERT_EQ(dataset.examples.size(), 1U);
    const Example& example = dataset.examples[0];
    EXPECT_EQ(example.ids, (std::vector<tokenizer::TokenId>{'a', 'b', 'c', 'd', FakeTokenizer::kEos}));
    EXPECT_EQ(example.supervised, (std::vector<std::uint8_t>{0, 0, 1, 1, 1}));
    EXPECT_EQ(example.answer_begin, 2);
    EXPECT_EQ(example.prompt, "ab");
    EXPECT_EQ(example.expected, "cd");
    EXPECT_EQ(example.task, "t");
    EXPECT_EQ(example.row, 0);
    EXPECT_EQ(example.place, file_.string() + ":1");
    EXPECT_EQ(dataset.statistics.tokens, 5);
    EXPECT_EQ(dataset.statistics.supervised_tokens, 3);
    EXPECT_EQ(dataset.statistics.longest, 5);
}

TEST_F(SftDataset, OverlongRowsAreDroppedOrCutAndCounted) {
    const std::string rows = pair("ab", "cd") + pair("ab", "cdefgh") + pair("abcdef", "g") + pair("a", "bcd");
    config_.max_length = 5;
    const Dataset dropped = load(rows, config_);
    EXPECT_EQ(dropped.statistics.kept, 2);
    EXPECT_EQ(dropped.statistics.too_long, 2);
    EXPECT_EQ(dropped.examples[1].row, 3);
    config_.overlong = Overlong::kTruncate;
    const Dataset cut = load(rows, config_);
    // Nothing of the third row's answer is left.
    EXPECT_EQ(cut.statistics.kept, 3);
    EXPECT_EQ(cut.statistics.no_supervised, 1);
    EXPECT_EQ(cut.statistics.truncated, 1);
    ASSERT_EQ(cut.examples.size(), 3U);
    EXPECT_TRUE(cut.examples[1].truncated);
    EXPECT_EQ(cut.examples[1].ids, (std::vector<tokenizer::TokenId>{'a', 'b', 'c', 'd', 'e'}));
    EXPECT_FALSE(cut.examples[2].truncated);
    EXPECT_EQ(cut.statistics.read, cut.statistics.kept + cut.statistics.dropped() + cut.statistics.rejected);
}

TEST_F(SftDataset, ATruncationBeforeTheLastAnswerLeavesNoPromptToGenerateFrom) {
    config_.overlong = Overlong::kTruncate;
    config_.train_on = TrainOn::kAll;
    config_.max_length = 4;
    const Dataset dataset = load(pair("abcdef", "g"), config_);
    ASSERT_EQ(dataset.examples.size(), 1U);
    EXPECT_EQ(dataset.examples[0].answer_begin, 0);
}

TEST_F(SftDataset, RepeatsAndConflictsAreCounted) {
    const Dataset dataset =
        load(pair("a", "x") + pair("b", "x") + pair("a", "x") + pair("a", "y") + pair("c", "x"), config_);
    EXPECT_EQ(dataset.statistics.kept, 5);
    EXPECT_EQ(dataset.statistics.duplicates.count, 1);
    EXPECT_EQ(dataset.statistics.duplicates.first.at(0), file_.string() + ":3 (as " + file_.string() + ":1)");
    EXPECT_EQ(dataset.statistics.conflicts.count, 1);
    EXPECT_EQ(dataset.statistics.conflicts.first.at(0), file_.string() + ":4 (as " + file_.string() + ":1)");
}

TEST_F(SftDataset, TextsHaveNoPromptThatCouldConflict) {
    const Dataset dataset =
        load("{\"text\": \"a\"}\n{\"text\": \"b\"}\n", config_, TemplateName::kNone, true);
    EXPECT_EQ(dataset.statistics.conflicts.count, 0);
    EXPECT_EQ(dataset.examples[0].answer_begin, 0);
}

TEST_F(SftDataset, EachAnswerCanBeARowOfItsOwn) {
    config_.one_row_per_answer = true;
    const std::string turns = R"({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},)"
                              R"( {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"})";
    Dataset dataset = load(R"({"messages": [)" + turns + R"(, {"role": "user", "content": "e"}]})", config_,
                           TemplateName::kChatml);
    ASSERT_EQ(dataset.examples.size(), 2U);
    EXPECT_EQ(dataset.statistics.read, 2);
    const auto text = [&](std::size_t i) { return kTokenizer.decode(dataset.examples[i].ids); };
    EXPECT_EQ(text(0), "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n");
    EXPECT_TRUE(text(1).ends_with("c<|im_end|>\n<|im_start|>assistant\nd<|im_end|>\n")) << text(1);
    for (const Example& example : dataset.examples) EXPECT_EQ(example.supervised_tokens(), 2);
    // One trained answer among others ends the row too, as inference would.
    dataset =
        load(R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},)"
             R"( {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "weight": 0}]})",
             config_, TemplateName::kChatml);
    ASSERT_EQ(dataset.examples.size(), 1U);
    EXPECT_EQ(text(0), "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n");
}

TEST_F(SftDataset, LengthsAreCountedBeforeDropping) {
    config_.max_length = 40;
    const Dataset dataset = load(pair(std::string(10, 'a'), "b") + pair(std::string(14, 'a'), "b") +
                                     pair(std::string(15, 'a'), "b") + pair(std::string(60, 'a'), "b"),
                                 config_);
    std::vector<std::int64_t> rows;
    for (const LengthBin& bin : dataset.statistics.lengths) rows.push_back(bin.rows);
    EXPECT_EQ(rows, (std::vector<std::int64_t>{2, 1, 1}));
}

TEST_F(SftDataset, TwoBeginningTokensAreAFaultOfTheRow) {
    config_.on_bad_row = OnBadRow::kSkip;
    const Dataset dataset = load(R"({"text": "<s>a"})"
                                 "\n"
                                 R"({"text": "a<s><s>"})",
                                 config_, TemplateName::kNone, true);
    EXPECT_EQ(dataset.statistics.kept, 1);
    ASSERT_EQ(dataset.rejected.size(), 1U);
    EXPECT_EQ(dataset.rejected[0].place, file_.string() + ":1");
    EXPECT_NE(dataset.rejected[0].reason.find("two <s> (BOS)"), std::string::npos);
}

TEST_F(SftDataset, ATokenWithoutAnEmbeddingIsNamed) {
    try {
        load(pair("a", "b"), config_, TemplateName::kNone, false, 200);
        FAIL() << "EOS is 257";
    } catch (const CheckpointError& error) {
        EXPECT_NE(std::string(error.what()).find("token 257 (</s>)"), std::string::npos) << error.what();
        EXPECT_NE(std::string(error.what()).find("rows.jsonl:1"), std::string::npos);
    }
}

TEST_F(SftDataset, NothingToTrainOnIsAnError) {
    EXPECT_THROW(load("", config_), DataError);
    EXPECT_THROW(load("\n \n", config_), DataError);
    config_.max_length = 2;
    EXPECT_THROW(load(pair("abc", "def"), config_), DataError);
    config_.on_bad_row = OnBadRow::kSkip;
    EXPECT_THROW(load("[]\n", config_), DataError);
}

TEST_F(SftDataset, RowsThatDoNotFitTheTemplateAreRejectedByLine) {
    config_.on_bad_row = OnBadRow::kSkip;
    const Dataset dataset = load(pair("a", "b") + R"({"messages": [{"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"}]})"
                                                  "\n",
                                 config_);
    EXPECT_EQ(dataset.statistics.kept, 1);
    EXPECT_GE(dataset.rejected.size(), 1U);
}

TEST_F(SftDataset, FilesAreTakenInOrderAndRowsNumberedThrough) {
    const std::filesystem::path second = folder_ / "second.json";
    write_file(file_, pair("a", "b"));
    write_file(second, "[\n" + pair("c", "d") + "]");
    const PromptTemplate prompt_template(TemplateName::kNone, std::nullopt, kTokenizer, kTokenizer.special());
    const Dataset dataset = load_dataset({file_, second}, config_, prompt_template, 0);
    ASSERT_EQ(dataset.examples.size(), 2U);
    EXPECT_EQ(dataset.examples[1].row, 1);
    EXPECT_EQ(dataset.examples[1].place, second.string() + ":2 (element 0)");
    const Dataset again = load_dataset({file_, second}, config_, prompt_template, 0);
    EXPECT_EQ(dataset.fingerprint, again.fingerprint);
    const Dataset turned = load_dataset({second, file_}, config_, prompt_template, 0);
    EXPECT_NE(dataset.fingerprint, turned.fingerprint);
}

// One file that is cut hides neither another one nor the bad rows.
TEST_F(SftDataset, BadFilesAndBadRowsAreSaidTogether) {
    const FakeTokenizer tokenizer;
    const PromptTemplate prompt_template(TemplateName::kNone, std::nullopt, tokenizer, tokenizer.special());
    write_file(folder_ / "1.jsonl", pair("a", "b") + "[]\n");
    write_file(folder_ / "2.jsonl.gz", "\x1f\x8b\x08");
    write_file(folder_ / "3.jsonl", "");
    write_file(folder_ / "4.jsonl", pair("a", "b") + pair("a", ""));
    const auto said = [&](const std::vector<std::filesystem::path>& files) -> std::string {
        try {
            load_dataset(files, config_, prompt_template, 400);
        } catch (const DataError& error) {
            return error.what();
        }
        return {};
    };
    const std::string message = said({folder_.path()});
    const std::string place = "\n  " + (folder_ / "").string();
    EXPECT_EQ(message.find("2 files cannot be read:" + place + "2.jsonl.gz: gzip: "), 0U) << message;
    EXPECT_NE(message.find(place + "3.jsonl: holds no rows\n2 of 4 rows cannot be used"), std::string::npos)
        << message;
    EXPECT_NE(message.find(place + "1.jsonl:2: a row must be"), std::string::npos) << message;
    EXPECT_NE(message.find(place + "4.jsonl:2: the answer"), std::string::npos) << message;
    config_.on_bad_row = OnBadRow::kSkip;
    EXPECT_EQ(said({folder_ / "1.jsonl", folder_ / "3.jsonl"}),
              (folder_ / "3.jsonl").string() + ": holds no rows");
}

TEST_F(SftDataset, AChangedFileHasAnotherFingerprint) {
    const std::string before = load(pair("a", "b"), config_).fingerprint;
    EXPECT_EQ(load(pair("a", "b"), config_).fingerprint, before);
    EXPECT_NE(load(pair("a", "c"), config_).fingerprint, before);
}

TEST_F(SftDataset, ACutExactlyBeforeTheLastAnswerLeavesNoPrompt) {
    const std::string rows =
        R"({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"},
            {"role": "user", "content": "v"}, {"role": "assistant", "content": "b"}]})";
    const std::string row = Json::parse(rows).dump() + "\n";
    const std::int64_t begin = load(row, config_, TemplateName::kChatml).examples.at(0).answer_begin;
    ASSERT_GT(begin, 0);
    config_.overlong = Overlong::kTruncate;
    config_.max_length = begin;
    EXPECT_EQ(load(row, config_, TemplateName::kChatml).examples.at(0).answer_begin, 0);
    config_.max_length = begin + 1;
    EXPECT_EQ(load(row, config_, TemplateName::kChatml).examples.at(0).answer_begin, begin);
}

TEST_F(SftDataset, TheLastEmbeddingCanBeUsed) {
    EXPECT_NO_THROW(load(pair("a", "b"), config_, TemplateName::kNone, false, FakeTokenizer::kEos + 1));
    EXPECT_THROW(load(pair("a", "b"), config_, TemplateName::kNone, false, FakeTokenizer::kEos),
                 CheckpointError);
}

TEST_F(SftDataset, TextsAreKeptForGenerationOnly) {
    const std::string rows = pair(std::string(100, 'a'), std::string(200, 'b'));
    const Dataset with = load(rows, config_);
    const Dataset without =
        load(rows, config_, TemplateName::kNone, false, 400, {.keeps_texts = false, .threads = 1});
    EXPECT_EQ(without.examples.at(0).prompt, "");
    EXPECT_EQ(without.examples.at(0).expected, "");
    EXPECT_EQ(without.examples.at(0).ids, with.examples.at(0).ids);
    EXPECT_EQ(without.examples.at(0).answer_begin, with.examples.at(0).answer_begin);
    EXPECT_GE(held_bytes(with.examples), held_bytes(without.examples) + 300);
    EXPECT_GE(held_bytes(without.examples), 301 * 5);
}

/// More rows than are encoded together; every 50th is bad, some repeat.
std::string many_rows(int count) {
    std::string rows;
    for (int i = 0; i < count; ++i) {
        rows += i % 50 == 49 ? "[" + std::to_string(i) + "]\n"
                             : pair("p" + std::to_string(i % 977), "c" + std::to_string(i % 13));
    }
    return rows;
}

TEST_F(SftDataset, ThreadsChangeNothing) {
    const std::string rows = many_rows(9000);
    config_.on_bad_row = OnBadRow::kSkip;
    const Dataset one = load(rows, config_);
    const Dataset many = load(rows, config_, TemplateName::kNone, false, 400, {.threads = 7});
    ASSERT_EQ(many.examples.size(), one.examples.size());
    for (std::size_t i = 0; i < one.examples.size(); ++i) {
        ASSERT_EQ(many.examples[i].ids, one.examples[i].ids) << i;
        ASSERT_EQ(many.examples[i].supervised, one.examples[i].supervised) << i;
        ASSERT_EQ(many.examples[i].place, one.examples[i].place) << i;
        ASSERT_EQ(many.examples[i].row, one.examples[i].row) << i;
    }
    ASSERT_EQ(many.rejected.size(), 180U);
    for (std::size_t i = 0; i < one.rejected.size(); ++i) {
        EXPECT_EQ(many.rejected[i].place, one.rejected[i].place);
        EXPECT_EQ(many.rejected[i].text, one.rejected[i].text);
    }
    EXPECT_EQ(describe(many.statistics), describe(one.statistics));
    EXPECT_EQ(many.fingerprint, one.fingerprint);
}

TEST_F(SftDataset, TheFirstFaultIsSaidWhateverTheThreads) {
    // Both rows hold a token without an embedding.
    const std::string rows = many_rows(40) + pair("x", "z\n\n\nz") + pair("y", "z\n\nz");
    for (const std::int64_t threads : {1, 7}) {
        try {
            load(rows, config_, TemplateName::kNone, false, 302, {.threads = threads});
            FAIL();
        } catch (const CheckpointError& error) {
            EXPECT_NE(std::string(error.what()).find("rows.jsonl:41: "), std::string::npos) << error.what();
        }
    }
    // All bad rows are listed in their order.
    std::string messages[2];
    for (const std::int64_t threads : {1, 7}) {
        try {
            load(many_rows(3000), config_, TemplateName::kNone, false, 400, {.threads = threads});
        } catch (const DataError& error) {
            messages[threads > 1] = error.what();
        }
    }
    EXPECT_NE(messages[0].find("60 of 3000 rows"), std::string::npos) << messages[0];
    EXPECT_EQ(messages[1], messages[0]);
}

TEST_F(SftDataset, RejectedRowsAreWrittenAsJsonWhateverTheyHold) {
    config_.on_bad_row = OnBadRow::kSkip;
    const Dataset dataset = load(pair("a", "b") + "\xff\xfe\n" + std::string(2, '\0') + "\n[]\n", config_);
    write_rejected(folder_ / "rejected.jsonl", dataset.rejected);
    const std::string text = read_file(folder_ / "rejected.jsonl");
    std::vector<Json> lines;
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = text.find('\n', begin);
        lines.push_back(parse_json(text.substr(begin, end - begin), "rejected.jsonl"));
        begin = end + 1;
    }
    ASSERT_EQ(lines.size(), 3U);
    const std::string fault = lines[2].at("fault").get<std::string>();
    EXPECT_EQ(fault.rfind(file_.string() + ":4: a row must be a JSON object", 0), 0U) << fault;
    EXPECT_EQ(lines[2].at("text"), "[]");
}

TEST_F(SftDataset, PreviewShowsEveryTokenAndWhatIsTrainedOn) {
    const Dataset dataset = load(R"({"prompt": "\"a", "completion": "b"})", config_, TemplateName::kChatml);
    const std::string shown = preview_rows(dataset, kTokenizer, 5);
    EXPECT_NE(shown.find("row 0 (" + file_.string() + ":1): 24 tokens, trained on 2"), std::string::npos)
        << shown;
    EXPECT_NE(shown.find("        | <|im_start|> \"u\" \"s\" \"e\" \"r\" \"\\n\" \"\\\"\" \"a\" <|im_end|>"),
              std::string::npos)
        << shown;
    EXPECT_NE(shown.find("  TRAIN | \"b\" <|im_end|>\n"), std::string::npos) << shown;
}

TEST_F(SftDataset, FieldsThatArePassedOverAreCounted) {
    const std::string turns = R"("messages": [{"role": "user", "content": "u", "name": "n"},
        {"role": "assistant", "content": "a", "name": "m", "refusal": null}])";
    const std::string row = Json::parse("{" + turns + R"(, "id": 1})").dump() + "\n";
    const Dataset dataset = load(row + row + R"({"prompt": "a", "completion": "b", "source": "s", "id": 3})" +
                                     "\n" + R"({"prompt": "a", "completion": "b", "id": null, "task": "t"})",
                                 config_, TemplateName::kChatml);
    EXPECT_EQ(passed_over_line(dataset.statistics),
              R"("id" (3 rows), "turns: name" (2 rows), "source" (1 row))");
    EXPECT_NE(describe(dataset.statistics).find("fields passed over: \"id\" (3 rows)"), std::string::npos);
    EXPECT_EQ(passed_over_line(load(pair("a", "b"), config_).statistics), "");
}

// Rows need not have a system field, so only this tells that its name is spelled wrongly.
TEST_F(SftDataset, AColumnThatNoRowHasIsNamed) {
    config_.columns.columns = {{"system", "sistem"}, {"prompt", "q"}, {"task", "kind"}};
    const Dataset dataset = load(R"({"q": "a", "completion": "b"})"
                                 "\n"
                                 R"({"q": "a", "completion": "c", "kind": "k"})",
                                 config_);
    ASSERT_EQ(dataset.statistics.passed_over.size(), 1U);
    EXPECT_EQ(dataset.statistics.passed_over[0].field, "data.columns.system: no column sistem");
    EXPECT_EQ(dataset.statistics.passed_over[0].rows, 2);
}

TEST_F(SftDataset, ColumnsAndSwitchesReachTheExamples) {
    config_.columns.columns = {{"prompt", "q"}, {"completion", "a"}};
    EXPECT_EQ(load(R"({"q": "ab", "a": "cd"})", config_).examples.at(0).supervised,
              (std::vector<std::uint8_t>{0, 0, 1, 1, 1}));
    const std::string row = R"({"messages": [{"role": "user", "content": "What is two plus two?"},
        {"role": "assistant", "content": "It is five.", "weight": 0}, {"role": "user", "content": "Look again."},
        {"role": "assistant", "content": "It is four.", "weight": 1}]})";
    const Dataset dataset = load(Json::parse(row).dump(), DataConfig{}, TemplateName::kChatml);
    const Example& example = dataset.examples.at(0);
    EXPECT_EQ(example.supervised_tokens(), static_cast<std::int64_t>(std::string("It is four.").size()) + 1);
    EXPECT_NE(example.supervised[static_cast<std::size_t>(example.answer_begin)], 0);
    // Without any answer that is trained a row is dropped, and counted.
    const std::string none =
        R"({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "train": false}]})";
    EXPECT_EQ(load(none + "\n" + Json::parse(row).dump(), DataConfig{}, TemplateName::kChatml)
                  .statistics.no_supervised,
              1);
}

TEST_F(SftDataset, DescriptionAddsUp) {
    config_.max_length = 10;
    config_.on_bad_row = OnBadRow::kSkip;
    const Dataset dataset = load(
        pair("a", "b") + pair("a", "b") + pair("a", "c") + pair(std::string(20, 'a'), "b") + "[]", config_);
    const std::string text = describe(dataset.statistics);
    for (const char* part : {"read 5 = kept 3 + dropped 1 + rejected 1", "dropped as too long: 1",
                             "rows equal to an earlier one: 1", "another answer: 1", "1-16", "17-32"}) {
        EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
    }
}

}  // namespace
