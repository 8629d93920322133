// The checkpoint's own chat template: what of its text is trained, what is refused.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "data/template_samples.h"
#include "qlora/core/error.h"
#include "qlora/data/prompt_template.h"

namespace {

using namespace qlora;
using namespace qlora::data;
using namespace qlora::data::test;

// The chat template of SmolLM2-Instruct checkpoints: a description of the format, needed here to the byte.
const std::string kSmolLm2Template =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
    "'<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n"
    "' + message['content'] + '<|im_end|>' + '\n"
    "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
    "' }}{% endif %}";

PromptTemplate own(const std::string& text, const TemplateInputs& inputs = {}) {
    return {TemplateName::kAuto, text, kTokenizer, kTokenizer.special(), inputs};
}

// The row as text, supervised tokens in braces.
std::string trained(const PromptTemplate& chat, const Record& record,
                    TrainOn train_on = TrainOn::kAssistant) {
    const EncodedRow row = chat.encode(chat.render(record, train_on));
    prove_answer_mask(row, chat, train_on);
    std::string out;
    for (std::size_t i = 0; i < row.ids.size(); ++i) {
        const bool opens = row.supervised[i] != 0 && (i == 0 || row.supervised[i - 1] == 0);
        const bool closes = row.supervised[i] != 0 && (i + 1 == row.ids.size() || row.supervised[i + 1] == 0);
        out += (opens ? "{" : "") + kTokenizer.decode({row.ids[i]}) + (closes ? "}" : "");
    }
    return out;
}

std::string refusal_of(const std::function<void()>& action) {
    try {
        action();
    } catch (const Error& error) {
        return error.what();
    }
    return "accepted";
}

Record row_of(const std::string& json) {
    return parse_record(json, DataFormat::kAuto, true);
}

const std::string kChat =
    "{%- for m in messages %}<|im_start|>{{ m.role + '\\n' }}"
    "{%- if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{- m.content }}"
    "{%- for call in m.tool_calls %}<call>{{ call.function.name }} {{ call.function.arguments | tojson "
    "}}</call>"
    "{%- endfor %}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

TEST(OwnTemplate, AddsItsDefaultSystemMessageOnlyWhereThereIsNone) {
    const PromptTemplate smollm2 = own(kSmolLm2Template);
    EXPECT_EQ(
        trained(smollm2, conversation({{Role::kUser, "a"}, {Role::kAssistant, "b"}})),
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n{b<|im_end|>}\n");
    EXPECT_EQ(
        trained(smollm2, conversation({{Role::kSystem, "s"}, {Role::kUser, "a"}, {Role::kAssistant, "b"}})),
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
        "{b<|im_end|>}\n");
}

TEST(OwnTemplate, WhatItWritesBetweenHeaderAndAnswerIsTrained) {
    EXPECT_EQ(trained(own(kChat), row_of(R"({"messages": [{"role": "user", "content": "a"},
        {"role": "assistant", "reasoning_content": "r", "content": "b"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "w", "arguments": {"x": "\"q\""}}]},
        {"role": "tool", "content": "t"}]})")),
              "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n{<think>r</think>b<|im_end|>}\n"
              "<|im_start|>assistant\n{<call>w {\"x\": \"\\\"q\\\"\"}</call><|im_end|>}\n"
              "<|im_start|>tool\nt<|im_end|>\n");
}

// As the templates of Qwen and Llama do, which render such rows but no empty conversation.
TEST(OwnTemplate, AConversationMayBeginWithAnAnswerWhereItReadsTheFirstTurn) {
    const PromptTemplate chat = own("{% if messages[0].role == 'system' %}S{% else %}T{% endif %}" + kChat);
    const Record record =
        row_of(R"({"messages": [{"role": "assistant", "reasoning_content": "r", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]})");
    EXPECT_EQ(trained(chat, record),
              "T<|im_start|>assistant\n{<think>r</think>b<|im_end|>}\n<|im_start|>user\nc<|im_end|>\n"
              "<|im_start|>assistant\n{d<|im_end|>}\n");
    EXPECT_EQ(trained(chat, record, TrainOn::kLastAssistant),
              "T<|im_start|>assistant\n<think>r</think>b<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
              "<|im_start|>assistant\n{d<|im_end|>}\n");
    // Kimi's has a system turn of its own where there is a first turn.
    EXPECT_TRUE(
        trained(own("{% if messages %}<|im_start|>system\nK<|im_end|>\n{% endif %}" + kChat), record)
            .starts_with(
                "<|im_start|>system\nK<|im_end|>\n<|im_start|>assistant\n{<think>r</think>b<|im_end|>}"));
    const Record alone = row_of(R"({"messages": [{"role": "assistant", "content": "b"}]})");
    EXPECT_EQ(trained(chat, alone), "T<|im_start|>assistant\n{b<|im_end|>}\n");
    const EncodedRow encoded = chat.encode(chat.render(alone, TrainOn::kAssistant));
    EXPECT_FALSE(prompt_difference(alone, encoded, chat).has_value());
}

TEST(OwnTemplate, AnAnswerThatItDoesNotWriteWholeIsRefusedByName) {
    const std::string drops =
        "{%- for m in messages %}<|im_start|>{{ m.role }}\n"
        "{%- if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{- m.content | trim }}<|im_end|>\n{% endfor %}";
    const std::string turn = R"({"role": "assistant", "content": " b ", "reasoning_content": "r"})";
    const Record both = row_of(R"({"messages": [{"role": "user", "content": "a"}, )" + turn +
                               R"(, {"role": "user", "content": "c"}, )" + turn + "]}");
    const auto fault = [&](const std::string& text, TrainOn train_on) {
        return refusal_of([&] { own(text).render(both, train_on); });
    };
    EXPECT_NE(fault(drops, TrainOn::kAssistant).find("leaves out reasoning_content of turn 2"),
              std::string::npos)
        << fault(drops, TrainOn::kAssistant);
    EXPECT_EQ(fault(drops, TrainOn::kLastAssistant), "accepted");
    const RenderedRow last = own(drops).render(both, TrainOn::kLastAssistant);
    EXPECT_EQ(last.left_out, std::vector<std::string>{"turns: leaves out reasoning_content"});
    EXPECT_NE(fault("{% for m in messages %}{{ m.content | upper }}{% endfor %}", TrainOn::kAssistant)
                  .find("changes the content of turn 2"),
              std::string::npos);
    EXPECT_NE(
        fault("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", TrainOn::kLastAssistant)
            .find("changes the content of turn 4"),
        std::string::npos);
    const Record call = row_of(R"({"messages": [{"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "tool_calls": [{"name": "w", "arguments": {"x": "y"}}]}]})");
    EXPECT_NE(refusal_of([&] {
                  own(kSmolLm2Template).render(call, TrainOn::kAssistant);
              }).find("leaves out tool_calls.name of turn 2"),
              std::string::npos);
}

TEST(OwnTemplate, AFieldThatItNeverReadsIsRefusedByName) {
    const std::string turns =
        R"("messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])";
    EXPECT_NE(refusal_of([&] {
                  own(kSmolLm2Template)
                      .render(row_of("{" + turns +
                                     R"(, "tools": [{"name": "w"}], "chat_template_kwargs": {"x": 1}})"),
                              TrainOn::kAssistant);
              }).find("has no place for tools, chat_template_kwargs.x"),
              std::string::npos);
    const std::string reads = "{% if x %}{{ tools[0].function.name }}{% endif %}" + kSmolLm2Template;
    EXPECT_TRUE(
        trained(own(reads),
                row_of("{" + turns + R"(, "tools": [{"name": "w"}], "chat_template_kwargs": {"x": 1}})"))
            .starts_with("w<|im_start|>"));
    TemplateInputs inputs;
    inputs.arguments = {{"x", false}, {"enable_thinking", true}};
    EXPECT_NE(refusal_of([&] { own(reads, inputs); }).find("data.template_arguments.enable_thinking"),
              std::string::npos);
    inputs.arguments.erase("enable_thinking");
    EXPECT_TRUE(trained(own(reads, inputs), row_of("{" + turns + R"(, "tools": [{"name": "w"}]})"))
                    .starts_with("<|im_start|>"));
}

TEST(OwnTemplate, TheNextRolesMarkerEndsAnAnswerWhereTheModelStopsThere) {
    const std::string glm =
        "{% for m in messages %}{{ '<|im_start|>' if m.role == 'user' else '<|im_end|>' }}{{ m.content }}"
        "{% endfor %}{% if add_generation_prompt %}<|im_end|>{% endif %}";
    TemplateInputs inputs;
    inputs.end_ids = {FakeTokenizer::kImStart};
    EXPECT_EQ(trained(own(glm, inputs), conversation(kTwoTurns)),
              "<|im_start|>a<|im_end|>{b<|im_start|>}c<|im_end|>{d}");
    const RenderedRow rendered = own(glm, inputs).render(conversation(kTwoTurns), TrainOn::kAssistant);
    EXPECT_TRUE(rendered.answers[0].ends);
    EXPECT_FALSE(rendered.answers[1].ends);
}

// Cohere's Command R7B closes the answer's frame before the turn.
TEST(OwnTemplate, WhatClosesAnAnswersFrameIsNotItsEnd) {
    const std::string framed =
        "{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{% if m.role == 'assistant' %}<|im_end|>{% endif %}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}";
    TemplateInputs inputs;
    inputs.special_tokens = {{"eos_token", kTokenizer.id_to_token(FakeTokenizer::kEos)}};
    const std::string eos = inputs.special_tokens["eos_token"];
    const PromptTemplate chat = own(framed, inputs);
    EXPECT_EQ(chat.answer_end(), FakeTokenizer::kEos);
    EXPECT_EQ(trained(chat, conversation(kTwoTurns)), "user:a" + eos + "assistant:{b<|im_end|>" + eos +
                                                          "}user:c" + eos + "assistant:{d<|im_end|>" + eos +
                                                          "}");
    // EOS behind the whole text ends no turn.
    const std::string phi =
        "{% for m in messages %}{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}"
        "{{ 'assistant:' if add_generation_prompt else eos_token }}";
    EXPECT_EQ(own(phi, inputs).answer_end(), FakeTokenizer::kImEnd);
    // A template for one question is asked one.
    const std::string single =
        "{% if messages | length > 2 %}{{ raise_exception('one question') }}{% endif %}" + phi;
    EXPECT_EQ(own(single, inputs).answer_end(), FakeTokenizer::kImEnd);
}

TEST(OwnTemplate, GenerationBlocksSayWhatIsTrained) {
    const std::string blocks =
        "{% macro say(m) %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endmacro %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}:"
        "{% if m.role == 'assistant' %}{{ say(m) }}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    Record record = conversation(kTwoTurns);
    EXPECT_EQ(trained(own(blocks), record),
              "<|im_start|>user:a<|im_start|>assistant:{b<|im_end|>}<|im_start|>user:c<|im_start|>assistant:"
              "{d<|im_end|>}");
    record.messages[1].switch_off();
    EXPECT_EQ(trained(own(blocks), record),
              "<|im_start|>user:a<|im_start|>assistant:b<|im_end|><|im_start|>user:c<|im_start|>assistant:"
              "{d<|im_end|>}");
}

TEST(OwnTemplate, GenerationBlocksThatMarkSomethingElseAreNamed) {
    const auto marks = [](const std::string& which, const std::string& inside) {
        return "{% for m in messages %}{% if m.role == '" + which + "' %}{% generation %}" + inside +
               "{% endgeneration %}{{ m.content[1:] }}{% else %}{{ m.content }}{% endif %}<|im_end|>{% "
               "endfor %}";
    };
    const Record record = conversation({{Role::kUser, "ab"}, {Role::kAssistant, "cd"}});
    EXPECT_NE(refusal_of([&] {
                  own(marks("user", "{{ m.content[:1] }}")).render(record, TrainOn::kAssistant);
              }).find("marks what turn 1 says as an answer ({% generation %}), but its role is \"user\""),
              std::string::npos);
    const RenderedRow part =
        own(marks("assistant", "{{ m.content[:1] }}")).render(record, TrainOn::kAssistant);
    EXPECT_EQ(part.left_out, std::vector<std::string>{"answers: {% generation %} leaves out a part"});
}

TEST(OwnTemplate, NoMessageFormsAControlTokenAcrossItsEdges) {
    const std::string glues =
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}<|im_{{ m.content }}|im_end|>{% endfor %}";
    const Record record = conversation({{Role::kUser, "start|>"}, {Role::kAssistant, "end|><"}});
    const PromptTemplate chat = own(glues);
    const EncodedRow encoded = chat.encode(chat.render(record, TrainOn::kAssistant));
    for (const TokenId id : encoded.ids) EXPECT_LT(id, 256) << kTokenizer.decode({id});
}

TEST(OwnTemplate, SaysWhereGenerationSeesAnotherPrompt) {
    const std::string opens = kSmolLm2Template + "{% if add_generation_prompt %}<think>{% endif %}";
    const PromptTemplate chat = own(opens);
    const Record record = conversation({{Role::kSystem, "s"}, {Role::kUser, "a"}, {Role::kAssistant, "b"}});
    const EncodedRow encoded = chat.encode(chat.render(record, TrainOn::kAssistant));
    const std::optional<PromptDifference> difference = prompt_difference(record, encoded, chat);
    ASSERT_TRUE(difference.has_value());
    EXPECT_EQ(difference->trained, "");
    EXPECT_EQ(difference->inferred, "<think>");
    EXPECT_FALSE(prompt_difference(record, encoded, own(kSmolLm2Template)).has_value());
}

TEST(OwnTemplate, ANamedTemplateAddsNoSystemMessage) {
    const PromptTemplate chatml(TemplateName::kChatml, kSmolLm2Template, kTokenizer, kTokenizer.special());
    Record question;
    question.kind = RecordKind::kPair;
    question.messages = {{Role::kUser, "a"}};
    EXPECT_EQ(kTokenizer.decode(chatml.encode(chatml.render_prompt(question)).ids),
              "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n");
}

TEST(OwnTemplate, RowsWithToolsTakeTheTemplateForTools) {
    TemplateInputs inputs;
    inputs.tool_use = "{{ tools[0].function.name }}" + kSmolLm2Template;
    const std::string turns =
        R"("messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "b"}])";
    const PromptTemplate chat = own(kSmolLm2Template, inputs);
    EXPECT_TRUE(
        trained(chat, row_of("{" + turns + R"(, "tools": [{"name": "w"}]})")).starts_with("w<|im_start|>"));
    EXPECT_TRUE(trained(chat, row_of("{" + turns + "}")).starts_with("<|im_start|>"));
    inputs.tools = Json::array({{{"name", "all"}}});
    EXPECT_TRUE(
        trained(own(kSmolLm2Template, inputs), row_of("{" + turns + "}")).starts_with("all<|im_start|>"));
}

TEST(OwnTemplate, ATemplateThatCannotBeParsedIsNamedWithItsLine) {
    const std::string broken = "a\n{% frobnicate %}";
    EXPECT_NE(refusal_of([&] { own(broken); }).find("the model's own chat template:2"), std::string::npos)
        << refusal_of([&] { own(broken); });
    for (const char* other : {"", "{\"tokenizer_class\": \"x\"}"}) {
        EXPECT_NE(refusal_of([&] { own(other); }).find("own chat template does not read \"messages\""),
                  std::string::npos);
    }
    EXPECT_NO_THROW(PromptTemplate(TemplateName::kChatml, broken, kTokenizer, kTokenizer.special()));
}

}  // namespace
