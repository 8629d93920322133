#include <gtest/gtest.h>

#include <string>

#include "data/chat_layout.h"
#include "data/fake_tokenizer.h"
#include "qlora/core/error.h"
#include "qlora/data/prompt_template.h"

namespace {

using namespace qlora::data;
using qlora::data::test::FakeTokenizer;

// The chat template of SmolLM2-Instruct checkpoints: a description of the format, needed here to the byte.
const std::string kSmolLm2Template =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
    "'<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n"
    "' + message['content'] + '<|im_end|>' + '\n"
    "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
    "' }}{% endif %}";

std::string rendered(const std::vector<Message>& messages) {
    const FakeTokenizer tokenizer;
    const PromptTemplate own(TemplateName::kAuto, kSmolLm2Template, tokenizer, tokenizer.special());
    Record record;
    record.kind = RecordKind::kConversation;
    record.messages = messages;
    return tokenizer.decode(own.encode(own.render(record, TrainOn::kAssistant)).ids);
}

TEST(RecognisedTemplate, IsKnownByItsTextToTheByte) {
    ASSERT_NE(recognised_layout(kSmolLm2Template), nullptr);
    EXPECT_EQ(recognised_layout(kSmolLm2Template)->name, "smollm2");
    EXPECT_NE(recognised_layout(kSmolLm2Template + "\n"), nullptr);  // Jinja drops one line end
    EXPECT_EQ(recognised_layout(kSmolLm2Template + "\n\n"), nullptr);
    EXPECT_EQ(recognised_layout(kSmolLm2Template + " "), nullptr);
    EXPECT_EQ(recognised_layout(""), nullptr);
}

TEST(RecognisedTemplate, AddsItsDefaultSystemMessageOnlyWhereThereIsNone) {
    EXPECT_EQ(
        rendered({{Role::kUser, "a"}, {Role::kAssistant, "b"}}),
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n");
    EXPECT_EQ(rendered({{Role::kSystem, "s"}, {Role::kUser, "a"}, {Role::kAssistant, "b"}}),
              "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_"
              "end|>\n");
}

TEST(RecognisedTemplate, ANamedTemplateAddsNoSystemMessage) {
    const FakeTokenizer tokenizer;
    const PromptTemplate chatml(TemplateName::kChatml, kSmolLm2Template, tokenizer, tokenizer.special());
    Record question;
    question.kind = RecordKind::kPair;
    question.messages = {{Role::kUser, "a"}};
    EXPECT_EQ(tokenizer.decode(chatml.encode(chatml.render_prompt(question)).ids),
              "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n");
}

}  // namespace
