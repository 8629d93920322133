// Rows that cannot be used or leave a doubt, each with the sentence that says so.
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/data/record_format.h"

namespace row_form_faults {
namespace {

using namespace qlora;
using namespace qlora::data;

std::string fault_of(const std::string& row) {
    try {
        parse_record(row, DataFormat::kAuto, true);
    } catch (const DataError& error) {
        return error.what();
    }
    return "accepted";
}

void expect_fault(const std::string& row, const std::string& words) {
    EXPECT_NE(fault_of(row).find(words), std::string::npos) << row << "\n" << fault_of(row);
}

TEST(RowFormFaults, WhatWouldTeachSomethingElseIsRefused) {
    const std::string turns =
        R"("messages": [{"role": "user", "content": "<image>u"}, {"role": "assistant", "content": "a"}])";
    expect_fault("{\"images\": [\"a.png\"], " + turns + "}", "\"images\" holds what is no text");
    expect_fault("{\"images\": [], " + turns + "}", "accepted");
    // The preference rows of KTO.
    expect_fault(R"({"prompt": "p", "completion": "c", "label": false})", "\"label\" false marks an answer");
    expect_fault(R"({"prompt": "p", "completion": "c", "label": true})", "accepted");
    expect_fault("{\"kto_tag\": false, " + turns + "}", "\"kto_tag\" false marks an answer");
    expect_fault("{\"label\": false, " + turns + "}", "accepted");
    expect_fault(R"({"text": "t", "label": false})", "accepted");
}

TEST(RowFormFaults, WhatLeavesADoubtIsRefused) {
    expect_fault(R"({"prompt": "p", "question": "q", "answer": "a"})",
                 "fit both alpaca and prompt_completion");
    expect_fault(
        R"({"question": "q", "answer": "a", "response": "r"})",
        R"(both "response" and "answer" could be the field "output"; name one of them in data.columns)");
    expect_fault(R"({"instruction": "i", "question": "q", "answer": "a"})",
                 R"(both "instruction" and "question")");
    expect_fault(R"({"instruction": "i", "input": "x", "context": "y", "output": "o"})",
                 R"(both "input" and "context")");
    expect_fault(R"({"prompt": "p", "completion": "c", "system": "s", "system_prompt": "t"})",
                 R"(both "system" and "system_prompt")");
    expect_fault(R"({"messages": [{"role": "user", "content": "u"}], "conversations": []})",
                 "fit both messages and sharegpt");
}

// Wrong types and contradictions in each field, with the place.
TEST(RowFormFaults, FaultsNameTheFieldAndTheTurn) {
    const auto turn = [](const std::string& fields) {
        return R"({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", )" + fields + "}]}";
    };
    const std::string here = "turn 1 of \"messages\"";
    const std::vector<std::pair<std::string, std::string>> turns = {
        {R"("content": 3)",
         "\"content\" of " + here + " must be a string or a list of text parts, found a number"},
        {R"("content": [3])", "part 0 of \"content\" of " + here + " must be an object, found a number"},
        {R"("content": [{"text": "x"}])", "must have a \"type\", a string"},
        {R"("content": [{"type": "text", "text": 1}])", "must have a \"text\", a string"},
        {R"("content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}}])",
         "part 1 of \"content\" of " + here + " is of the type \"image_url\""},
        {R"("content": [])", "the answer in " + here + " is empty"},
        {R"("content": "a", "value": "b")", here + " has both \"content\" and \"value\""},
        {R"("content": "a", "from": "gpt")", here + " has both \"role\" and \"from\""},
        {R"("name": "n")", here + " has no \"content\""},
        {R"("content": null, "tool_calls": [])", "must be a string, found null"},
        {R"("content": "a", "weight": 0.5)", "\"weight\" of " + here + " must be 0 or 1, found 0.5"},
        {R"("content": "a", "weight": "0")", "must be 0 or 1, found a string"},
        {R"("content": "a", "weight": false)", "must be 0 or 1, found true or false"},
        {R"("content": "a", "train": 0)", "\"train\" of " + here + " must be true or false, found a number"},
        {R"("content": "a", "weight": 1, "train": false)", "\"weight\" and \"train\", which differ"},
        {R"("content": "a", "train_detail": [{"begin_offset": 0}])", "\"train_detail\" of " + here},
        {R"("content": "a", "loss_scale": 0.3)", "\"loss_scale\" of " + here},
        {R"("content": "a", "reasoning_content": ["x"])",
         "\"reasoning_content\" of " + here + " must be a string"},
        {R"("content": "a", "reasoning_content": "x", "thinking": "y")",
         "reasoning under two names that differ"},
        {R"("content": "", "reasoning_content": "x")", "the answer in " + here + " is empty"},
        {R"("tool_calls": 3)",
         "\"tool_calls\" of " + here + " must be a list or the JSON text of one, found a number"},
        {R"("tool_calls": "[")", "must be a list or the JSON text of one, found \"[\""},
        {R"("tool_calls": "{}")", "found the text of an object"},
        {R"("tool_calls": [1])",
         "call 0 of \"tool_calls\" of " + here + " must be an object, found a number"},
        {R"("tool_calls": [{"function": 1}])", "\"function\" of call 0"},
        {R"("tool_calls": [{"function": {"name": 1}}])", "must have the function's \"name\""},
        {R"("tool_calls": [{"function": {"name": "f"}}])", "has no \"arguments\""},
        {R"("tool_calls": [{"function": {"name": "f", "arguments": [1]}}])",
         "must be an object or the JSON text"},
        {R"("tool_calls": [{"function": {"name": "f", "arguments": "{"}}])",
         "must be an object or the JSON text"},
        {R"("tool_calls": [{"type": "retrieval", "function": {}}])", "only functions are known"},
        {R"("tool_calls": [{"name": "f", "arguments": {}}], "function_call": {"name": "f"})",
         here + " has both \"tool_calls\" and \"function_call\""},
    };
    for (const auto& [fields, words] : turns) expect_fault(turn(fields), words);

    const std::string good =
        R"("messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}])";
    expect_fault("{\"tools\": {}, " + good + "}", "accepted");
    expect_fault("{\"tools\": 3, " + good + "}",
                 "\"tools\" must be a list or the JSON text of one, found a number");
    expect_fault("{\"tools\": [3], " + good + "}", "entry 0 of \"tools\" must be an object, found a number");
    expect_fault("{\"tools\": [{\"function\": {}}], " + good + "}", "must have the function's \"name\"");
    expect_fault("{\"documents\": [\"x\"], " + good + "}", "\"documents\" must be a list of objects");
    expect_fault("{\"chat_template_kwargs\": [1], " + good + "}",
                 "\"chat_template_kwargs\" must be an object");
    expect_fault("{\"chat_template_kwargs\": {\"add_generation_prompt\": true}, " + good + "}",
                 "\"chat_template_kwargs\" holds \"add_generation_prompt\", which is the row's own");
    expect_fault("{\"system\": 3, " + good + "}", "\"system\" must be a string, found a number");
    expect_fault(
        R"({"system": "t", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
                     {"role": "assistant", "content": "a"}]})",
        "the system turn that the conversation begins with differ");
    expect_fault(R"({"messages": [{"role": "user", "content": "u", "train": true},
                                  {"role": "assistant", "content": "a"}]})",
                 "\"train\" of turn 0 of \"messages\" asks to train a turn of the role \"user\"");
    expect_fault(R"({"messages": [{"role": "user", "content": "u", "tool_calls": [{"name": "f"}]},
                                  {"role": "assistant", "content": "a"}]})",
                 "only an assistant calls tools");
    expect_fault(R"({"messages": [{"role": "tool", "content": "t"}, {"role": "assistant", "content": "a"}]})",
                 "nothing was asked before it");
    expect_fault(R"({"messages": [{"role": "user", "content": "u"}, {"role": "developer", "content": "d"}]})",
                 "turn 1 of \"messages\" is a developer message");
    expect_fault(R"({"messages": [{"role": "developer", "content": "d"}]})", "only a system message");
    expect_fault(
        R"({"conversations": [{"from": "human", "value": "u"}, {"from": "function_call", "value": "call w"}]})",
        "must be the JSON of a call");
    expect_fault(
        R"({"conversations": [{"from": "human", "value": "u"}, {"from": "function_call", "value": "3"}]})",
        "must be the JSON of a call or of a list of calls, found a number");
    expect_fault(R"({"conversations": [{"from": "human", "value": "u"},
                     {"from": "function_call", "value": "{}", "tool_calls": [{"name": "f", "arguments": {}}]}]})",
                 "holds a call in both \"value\" and \"tool_calls\"");
    expect_fault(R"({"conversations": [{}]})", "turn 0 of \"conversations\" has no \"from\"");
    expect_fault(R"({"messages": "hello"})", "\"messages\" must be a list or the JSON text of one");
    expect_fault(R"({"instruction": "a", "output": "b", "history": [["x"]]})",
                 "round 0 of \"history\" must be a pair of strings");
    expect_fault(R"({"instruction": "a", "output": "b", "history": [["x", "y"], ["x", ""]]})",
                 "the answer in round 1 of \"history\" is empty");
    expect_fault(R"({"question": "q", "answer": null})", "\"answer\" must be a string, found null");
    expect_fault(R"({"question": "q", "choices": ["x"], "answer": 2})",
                 "\"answer\" must be a string, found a number");
}

}  // namespace
}  // namespace row_form_faults
