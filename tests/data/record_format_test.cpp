#include "qlora/data/record_format.h"

#include <gtest/gtest.h>

#include <string>

#include "qlora/core/error.h"

namespace {

using namespace qlora;
using namespace qlora::data;

Record parse(const std::string& row, DataFormat format = DataFormat::kAuto, bool answers_needed = true) {
    return parse_record(row, format, answers_needed);
}

std::string fault_of(const std::string& row, DataFormat format = DataFormat::kAuto) {
    try {
        parse(row, format);
    } catch (const DataError& error) {
        return error.what();
    }
    return "accepted";
}

void expect_fault(const std::string& row, const std::string& words, DataFormat format = DataFormat::kAuto) {
    EXPECT_NE(fault_of(row, format).find(words), std::string::npos) << row << "\n" << fault_of(row, format);
}

TEST(RecordFormat, AlpacaBecomesInstructionInputAndAnswer) {
    const Record record =
        parse(R"({"instruction": "Add.", "input": "1 1", "output": "2", "id": 7, "task": "sum"})");
    EXPECT_EQ(record.kind, RecordKind::kInstruction);
    EXPECT_EQ(record.messages, (std::vector<Message>{{Role::kUser, "Add."}, {Role::kAssistant, "2"}}));
    EXPECT_EQ(record.input, "1 1");
    EXPECT_EQ(record.task, "sum");
}

TEST(RecordFormat, AlpacaInputMayBeMissingOrNull) {
    EXPECT_EQ(parse(R"({"instruction": "a", "output": "b"})").input, "");
    EXPECT_EQ(parse(R"({"instruction": "a", "input": null, "output": "b"})").input, "");
}

TEST(RecordFormat, PromptAndCompletionStringsArePair) {
    const Record record = parse(R"({"prompt": "2+2=", "completion": " 4"})");
    EXPECT_EQ(record.kind, RecordKind::kPair);
    EXPECT_EQ(record.messages, (std::vector<Message>{{Role::kUser, "2+2="}, {Role::kAssistant, " 4"}}));
}

TEST(RecordFormat, PromptListIsContextEvenItsAnswers) {
    const Record record =
        parse(R"({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}], "completion": [{"role": "assistant", "content": "d"}]})");
    EXPECT_EQ(record.kind, RecordKind::kConversation);
    EXPECT_EQ(record.messages.size(), 4U);
    EXPECT_EQ(record.context, 3U);
}

TEST(RecordFormat, MessagesAndSharegptGiveTheSameRecord) {
    const Record a =
        parse(R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"}]})");
    const Record b =
        parse(R"({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "u"},
        {"from": "gpt", "value": "a"}]})");
    EXPECT_EQ(a.kind, RecordKind::kConversation);
    EXPECT_EQ(a.messages, b.messages);
    EXPECT_EQ(a.messages.front().role(), Role::kSystem);
}

TEST(RecordFormat, TextIsTakenAsItStands) {
    const Record record = parse(R"({"text": " a\u00e9\n"})");
    EXPECT_EQ(record.kind, RecordKind::kText);
    EXPECT_EQ(record.text, " a\xc3\xa9\n");
}

TEST(RecordFormat, ANamedFormatDecidesWhereSeveralFit) {
    const std::string row = R"({"text": "t", "prompt": "p", "completion": "c"})";
    expect_fault(row, "fit both prompt_completion and text");
    EXPECT_EQ(parse(row, DataFormat::kText).kind, RecordKind::kText);
    EXPECT_EQ(parse(row, DataFormat::kPromptCompletion).kind, RecordKind::kPair);
}

TEST(RecordFormat, UnknownFieldsAreListedWithTheFormats) {
    const std::string row = R"({"prompt": "q", "chosen": "a"})";
    expect_fault(row, R"(the fields ("prompt", "chosen") fit no format)");
    expect_fault(row, "alpaca (instruction, output, perhaps input)");
    expect_fault(row, "data.columns names columns");
    expect_fault("{}", "the fields (none) fit no format");
}

TEST(RecordFormat, MissingFieldOfANamedFormatIsNamed) {
    expect_fault(R"({"instruction": "a"})", "\"output\" is missing", DataFormat::kAlpaca);
    expect_fault(R"({"prompt": "a"})", "\"completion\" is missing", DataFormat::kPromptCompletion);
    expect_fault("{}", "\"messages\" is missing", DataFormat::kMessages);
    expect_fault("{}", "\"conversations\" is missing", DataFormat::kSharegpt);
    expect_fault("{}", "\"text\" is missing", DataFormat::kText);
}

TEST(RecordFormat, TurnsAreCheckedOneByOne) {
    expect_fault(R"({"messages": []})", "is an empty list");
    expect_fault(R"({"messages": {}})", "must be a list, found an object");
    expect_fault(R"({"messages": ["hi"]})", "turn 0 of \"messages\" must be an object, found a string");
    expect_fault(R"({"messages": [{"role": "user"}]})", "has no \"content\"");
    expect_fault(R"({"messages": [{"role": "user", "content": null}]})", "must be a string, found null");
    expect_fault(R"({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]})",
                 "turn 1 of \"messages\" is a system message");
    expect_fault(R"({"messages": [{"role": "user", "content": "a"}, {"role": "ipython", "content": "b"}]})",
                 "unknown role \"ipython\"; known are system, developer, user, human, assistant, gpt");
}

TEST(RecordFormat, RowsThatTeachNothingAreFaults) {
    expect_fault(R"({"instruction": "a", "output": " \n"})", "is empty");
    expect_fault(R"({"prompt": "a", "completion": ""})", "is empty");
    expect_fault(R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]})",
                 "is empty");
    expect_fault(R"({"text": ""})", "is empty");
    expect_fault(R"({"messages": [{"role": "system", "content": "a"}]})", "only a system message");
    expect_fault(R"({"messages": [{"role": "user", "content": "a"}]})", "no assistant turn");
}

TEST(RecordFormat, ConversationWithoutAnswerIsFineWhenEverythingIsTrainedOn) {
    EXPECT_EQ(parse(R"({"messages": [{"role": "user", "content": "a"}]})", DataFormat::kAuto, false)
                  .messages.size(),
              1U);
}

TEST(RecordFormat, CompletionMustBeginWithTheAssistant) {
    expect_fault(
        R"({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "user", "content": "b"}]})",
        "must begin with an assistant turn");
    expect_fault(R"({"prompt": [{"role": "user", "content": "a"}], "completion": "b"})",
                 "must both be strings or both");
}

TEST(RecordFormat, TaskMustBeAString) {
    expect_fault(R"({"text": "a", "task": 3})", "\"task\" must be a string");
}

TEST(RecordFormat, ForeignTextInMessagesIsEscapedAndCut) {
    const std::string role(100, '\x1b');
    const std::string fault =
        fault_of(R"({"messages": [{"role": ")" + Json(role).dump().substr(1) + R"(, "content": "a"}]})");
    EXPECT_NE(fault.find("\\u001b"), std::string::npos) << fault;
    EXPECT_EQ(fault.find('\x1b'), std::string::npos);
    EXPECT_LT(fault.size(), 500U);
}

}  // namespace
