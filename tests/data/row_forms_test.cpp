// Rows as people write them, each with the turns and the other inputs that a chat template gets from it.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/data/record_format.h"

namespace row_forms {
namespace {

using namespace qlora;
using namespace qlora::data;

Record parse(const std::string& row, const ColumnNames& columns = {}, DataFormat format = DataFormat::kAuto) {
    return parse_record(row, format, true, columns);
}

std::string fault_of(const std::string& row, const ColumnNames& columns = {}) {
    try {
        parse(row, columns);
    } catch (const DataError& error) {
        return error.what();
    }
    return "accepted";
}

/// The turns as the template gets them.
Json turns_of(const Record& record) {
    Json out = Json::array();
    for (const Message& message : chat_turns(record)) out.push_back(message.object());
    return out;
}

struct Form {
    const char* what;
    const char* row;
    const char* turns;
};

// What a template sees of U: user, A: assistant, S: system.
const std::vector<Form> kForms = {
    {"alpaca with LLaMA-Factory's system and history",
     R"({"instruction": "And its capital?", "input": "", "output": "Oslo.", "system": "Answer in one word.",
         "history": [["Name a country in the north.", "Norway."]]})",
     R"([{"role": "system", "content": "Answer in one word."},
         {"role": "user", "content": "Name a country in the north."}, {"role": "assistant", "content": "Norway."},
         {"role": "user", "content": "And its capital?"}, {"role": "assistant", "content": "Oslo."}])"},
    {"alpaca: the input belongs to the last question",
     R"({"instruction": "c", "input": "i", "output": "d", "system": null, "history": [["a", "b"]]})",
     R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
         {"role": "user", "content": "c\n\ni"}, {"role": "assistant", "content": "d"}])"},
    {"history as JSON text", R"({"instruction": "c", "output": "d", "history": "[[\"a\", \"b\"]]"})",
     R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
         {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}])"},
    {"sharegpt with a system field and an empty list of tools",
     R"({"conversations": [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "A pirate, arr."}],
         "system": "You speak like a pirate.", "tools": "[]"})",
     R"([{"role": "system", "content": "You speak like a pirate."}, {"role": "user", "content": "Who are you?"},
         {"role": "assistant", "content": "A pirate, arr."}])"},
    {"a system field that repeats the system turn",
     R"({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "u"},
                           {"from": "gpt", "value": "a"}], "system": "s"})",
     R"([{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
         {"role": "assistant", "content": "a"}])"},
    {"conversations with role and content",
     R"({"conversations": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]})",
     R"([{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}])"},
    {"messages with from and value",
     R"({"messages": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]})",
     R"([{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}])"},
    {"turns of one schema, where half of the names are null",
     R"({"messages": [{"from": null, "value": null, "role": "user", "content": "u", "name": null},
                      {"from": "gpt", "value": "a", "role": null, "content": null, "weight": null}],
         "text": null})",
     R"([{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}])"},
    {"messages as JSON text",
     R"({"messages": "[{\"role\": \"user\", \"content\": \"u\"}, {\"role\": \"assistant\", \"content\": \"a\"}]"})",
     R"([{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}])"},
    {"lists of text parts",
     R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                      {"role": "assistant", "content": [{"type": "text", "text": "c", "image_url": null}]}]})",
     R"([{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}])"},
    {"the developer role, alone and behind a system turn",
     R"({"messages": [{"role": "system", "content": "s"}, {"role": "developer", "content": "d"},
                      {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]})",
     R"([{"role": "system", "content": "s"}, {"role": "developer", "content": "d"},
         {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}])"},
    {"OpenAI's tool calls: arguments are JSON text, content is null",
     R"({"messages": [{"role": "user", "content": "u"},
         {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "w", "arguments": "{\"city\": \"Oslo\", \"n\": 1.0}"}}]},
         {"role": "tool", "tool_call_id": "c1", "name": "w", "content": "cold"},
         {"role": "assistant", "content": "Cold.", "tool_calls": []}]})",
     R"([{"role": "user", "content": "u"},
         {"role": "assistant", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "w", "arguments": {"city": "Oslo", "n": 1.0}}}]},
         {"role": "tool", "content": "cold", "tool_call_id": "c1", "name": "w"},
         {"role": "assistant", "content": "Cold."}])"},
    {"calls without their frame, without arguments, next to a text",
     R"({"messages": [{"role": "user", "content": "u"},
         {"role": "assistant", "content": "Wait.", "tool_calls": [{"name": "f", "arguments": {"a": [1, null]}},
                                                                  {"name": "g", "arguments": "", "id": "2"}]}]})",
     R"([{"role": "user", "content": "u"},
         {"role": "assistant", "content": "Wait.", "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": {"a": [1, null]}}},
            {"type": "function", "id": "2", "function": {"name": "g", "arguments": {}}}]}])"},
    {"OpenAI's older function_call and the role function",
     R"({"messages": [{"role": "user", "content": "u"},
         {"role": "assistant", "content": null, "function_call": {"name": "w", "arguments": "{}"}},
         {"role": "function", "name": "w", "content": "cold"}, {"role": "assistant", "content": "Cold."}]})",
     R"([{"role": "user", "content": "u"},
         {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "w", "arguments": {}}}]},
         {"role": "tool", "content": "cold", "name": "w"}, {"role": "assistant", "content": "Cold."}])"},
    {"sharegpt's function_call and observation",
     R"({"conversations": [{"from": "human", "value": "u"},
         {"from": "function_call", "value": "{\"name\": \"w\", \"arguments\": {\"city\": \"Oslo\"}}"},
         {"from": "observation", "value": "{\"t\": -3}"}, {"from": "gpt", "value": "Cold."}]})",
     R"([{"role": "user", "content": "u"},
         {"role": "assistant", "content": "",
          "tool_calls": [{"type": "function", "function": {"name": "w", "arguments": {"city": "Oslo"}}}]},
         {"role": "tool", "content": "{\"t\": -3}"}, {"role": "assistant", "content": "Cold."}])"},
    {"reasoning under any of its names is given to templates under two, as by transformers",
     R"({"messages": [{"role": "user", "content": "2+2?"},
                      {"role": "assistant", "content": "4.", "reasoning": "Two and two."}]})",
     R"([{"role": "user", "content": "2+2?"},
         {"role": "assistant", "content": "4.", "reasoning_content": "Two and two.", "thinking": "Two and two."}])"},
    {"Dolly", R"({"instruction": "q", "context": "c", "response": "r", "category": "closed_qa"})",
     R"([{"role": "user", "content": "q\n\nc"}, {"role": "assistant", "content": "r"}])"},
    {"GSM8K", R"({"question": "q", "answer": "a"})",
     R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])"},
    {"OpenOrca", R"({"id": "flan.1", "system_prompt": "s", "question": "q", "response": "r"})",
     R"([{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
         {"role": "assistant", "content": "r"}])"},
    {"OpenOrca without a system prompt", R"({"system_prompt": "", "question": "q", "response": "r"})",
     R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}])"},
    {"prompt and response", R"({"prompt": "p", "response": "r"})",
     R"([{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}])"},
    {"KoAlpaca", R"({"instruction": "한국의 수도는?", "output": "서울", "url": "x"})",
     R"([{"role": "user", "content": "한국의 수도는?"}, {"role": "assistant", "content": "서울"}])"},
    {"a pair with a system field", R"({"system": "s", "prompt": "p", "completion": "c"})",
     R"([{"role": "system", "content": "s"}, {"role": "user", "content": "p"},
         {"role": "assistant", "content": "c"}])"},
    {"TRL's conversational prompt and completion, with a call in it",
     R"({"prompt": [{"role": "user", "content": "u"}], "completion": [
         {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
         {"role": "tool", "content": "t"}, {"role": "assistant", "content": "a"}]})",
     R"([{"role": "user", "content": "u"},
         {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
         {"role": "tool", "content": "t"}, {"role": "assistant", "content": "a"}])"},
};

TEST(RowForms, GiveTheTurnsThatChatTemplatesTake) {
    for (const Form& form : kForms) {
        SCOPED_TRACE(form.what);
        Json turns;
        ASSERT_NO_THROW(turns = turns_of(parse(form.row)));
        // Compared as text too: numbers keep their kind.
        EXPECT_EQ(turns.dump(), Json::parse(form.turns).dump());
    }
}

TEST(RowForms, AQuestionIsAnInstructionAndAPromptIsAPair) {
    EXPECT_EQ(parse(R"({"question": "q", "answer": "a"})").kind, RecordKind::kInstruction);
    EXPECT_EQ(parse(R"({"instruction": "q", "context": "c", "response": "a"})").input, "c");
    EXPECT_EQ(parse(R"({"prompt": "q", "response": "a"})").kind, RecordKind::kPair);
}

TEST(RowForms, ASystemFieldOfAPromptListIsContextToo) {
    const Record record = parse(R"({"system": "s", "prompt": [{"role": "user", "content": "u"}],
                                    "completion": [{"role": "assistant", "content": "a"}]})");
    EXPECT_EQ(record.context, 2U);
    EXPECT_EQ(record.messages.front(), Message(Role::kSystem, "s"));
}

TEST(RowForms, ToolsAreAListOrItsTextWithOrWithoutTheirFrame) {
    const Json framed = Json::parse(
        R"([{"type": "function", "function": {"name": "w", "description": "weather", "parameters": {}}}])");
    const std::string turns =
        R"("messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}])";
    const std::string bare = R"([{"name": "w", "description": "weather", "parameters": {}}])";
    for (const std::string& tools : {framed.dump(), Json(framed.dump()).dump(), bare, Json(bare).dump(),
                                     Json::array({framed[0].dump()}).dump()}) {
        EXPECT_EQ(parse("{\"tools\": " + tools + ", " + turns + "}").tools, framed) << tools;
        EXPECT_EQ(parse("{\"functions\": " + tools + ", " + turns + "}").tools, framed) << tools;
    }
    for (const char* none : {"[]", "null", "\"\"", "\"[]\""})
        EXPECT_TRUE(parse("{\"tools\": " + std::string(none) + ", " + turns + "}").tools.is_null()) << none;
}

TEST(RowForms, DocumentsAndTemplateArgumentsAreKept) {
    const Record record =
        parse(R"({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}],
        "documents": [{"title": "t", "text": "x"}], "chat_template_kwargs": {"enable_thinking": false}})");
    EXPECT_EQ(record.documents.dump(), R"([{"title":"t","text":"x"}])");
    EXPECT_EQ(record.template_arguments.dump(), R"({"enable_thinking":false})");
    EXPECT_TRUE(record.passed_over.empty());
}

TEST(RowForms, SwitchesTurnATurnOff) {
    const auto off = [](const std::string& fields) {
        return parse(
                   R"({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", )" +
                   fields + "}]}")
            .messages.back();
    };
    for (const char* fields : {R"("weight": 0)", R"("weight": 0.0)", R"("train": false)", R"("loss": false)",
                               R"("weight": 0, "train": false)"}) {
        EXPECT_TRUE(off(fields).is_switched_off()) << fields;
        EXPECT_EQ(off(fields).object(), Message(Role::kAssistant, "a").object())
            << "a switch is no template's";
    }
    for (const char* fields : {R"("weight": 1)", R"("weight": 1.0)", R"("weight": null)", R"("train": true)"})
        EXPECT_FALSE(off(fields).is_switched_off()) << fields;
}

TEST(RowForms, WhatIsPassedOverIsListed) {
    const auto passed_over = [](const std::string& row, const ColumnNames& columns = {}) {
        return parse(row, columns).passed_over;
    };
    using Names = std::vector<std::string>;
    EXPECT_EQ(
        passed_over(R"({"prompt": "a", "completion": "b", "id": 0, "note": "", "tags": [], "x": null})"),
        Names{"id"});
    EXPECT_EQ(passed_over(R"({"text": "a", "system": "s", "tools": "t", "task": "k"})"),
              (Names{"system", "tools"}));
    EXPECT_EQ(passed_over(R"({"instruction": "a", "output": "b", "response": "c"})"), Names{"response"});
    EXPECT_EQ(passed_over(R"({"prompt": "a", "question": "b", "answer": "c"})", {{{"prompt", "question"}}}),
              Names{"prompt"});
}

TEST(RowForms, ColumnsNameTheFields) {
    const ColumnNames orca{{{"prompt", "question"}, {"completion", "response"}, {"system", "system_prompt"}}};
    const Record record =
        parse(R"({"system_prompt": "s", "question": "q", "response": "r", "id": "x", "text": "t"})", orca);
    EXPECT_EQ(record.kind, RecordKind::kPair);
    EXPECT_EQ(record.messages,
              (std::vector<Message>{{Role::kSystem, "s"}, {Role::kUser, "q"}, {Role::kAssistant, "r"}}));
    EXPECT_EQ(record.passed_over, (std::vector<std::string>{"id", "text"}));
    // A column may have the name of another field, and two fields may change places.
    const Record turned = parse(R"({"prompt": "a", "completion": "b"})",
                                {{{"prompt", "completion"}, {"completion", "prompt"}}});
    EXPECT_EQ(turned.messages, (std::vector<Message>{{Role::kUser, "b"}, {Role::kAssistant, "a"}}));
    const Record dialog =
        parse(R"({"dialog": [{"role": "user", "content": "u"}, {"from": "gpt", "value": "a"}]})",
              {{{"messages", "dialog"}}});
    EXPECT_EQ(dialog.messages, (std::vector<Message>{{Role::kUser, "u"}, {Role::kAssistant, "a"}}));
    EXPECT_EQ(parse(R"({"text": "a", "kind": "k"})", {{{"task", "kind"}}}).task, "k");
    // Faults speak of the column.
    EXPECT_EQ(fault_of(R"({"prompt": "a", "response": "b"})", orca), "the field \"question\" is missing");
    EXPECT_EQ(fault_of(R"({"question": 1, "response": "b"})", orca),
              "\"question\" must be a string, found a number");
    EXPECT_EQ(fault_of(R"({"question": "q", "response": " "})", orca),
              "the answer (\"response\") is empty: there is nothing to learn from it");
    EXPECT_NE(fault_of(R"({"dialog": []})", {{{"messages", "dialog"}}}).find("\"dialog\" is an empty list"),
              std::string::npos);
}

TEST(RowForms, ColumnsOfAConfigurationAreChecked) {
    ColumnNames columns;
    const auto read = [&](const char* text) {
        return FieldType<ColumnNames>::read(Json::parse(text), {}, columns);
    };
    EXPECT_EQ(read(R"({"prompt": "question", "completion": "response"})"), "");
    EXPECT_EQ(*columns.column_of("prompt"), "question");
    EXPECT_EQ(columns.column_of("text"), nullptr);
    EXPECT_EQ(FieldType<ColumnNames>::write(columns).dump(),
              R"({"prompt":"question","completion":"response"})");
    EXPECT_NE(read(R"({"question": "prompt"})")
                  .find("\"question\" is no field of a row; the fields are instruction"),
              std::string::npos);
    EXPECT_NE(read(R"({"prompt": 3})").find("[\"prompt\"] must be a string"), std::string::npos);
    EXPECT_NE(read(R"({"prompt": ""})").find("must name a column"), std::string::npos);
    EXPECT_NE(read(R"({"prompt": "a", "completion": "a"})").find("\"a\" is given to two fields"),
              std::string::npos);
    EXPECT_NE(read(R"(["prompt"])").find("must be an object"), std::string::npos);
}

}  // namespace
}  // namespace row_forms
