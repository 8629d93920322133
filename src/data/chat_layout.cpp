#include "chat_layout.h"

#include "jinja_text.h"
#include "qlora/data/message.h"

namespace qlora::data {
namespace {

constexpr ChatLayout kChatml{
    .name = "chatml", .turn_start = "<|im_start|>", .header = "\n", .turn_end = "<|im_end|>", .gap = "\n"};

// Llama 3: https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3/
constexpr ChatLayout kLlama3{.name = "llama3",
                             .row_start = "<|begin_of_text|>",
                             .turn_start = "<|start_header_id|>",
                             .role_end = "<|end_header_id|>",
                             .header = "\n\n",
                             .turn_end = "<|eot_id|>",
                             .strips_content = true};

}  // namespace

const ChatLayout& chatml_layout() {
    return kChatml;
}
const ChatLayout& llama3_layout() {
    return kLlama3;
}

std::string_view without_line_end(std::string_view chat_template) {
    if (chat_template.ends_with('\n')) chat_template.remove_suffix(1);
    return chat_template;
}

std::string chat_template_of(const ChatLayout& layout) {
    const auto text = [](std::string_view words) { return jinja_quoted(words); };
    const auto header = [&](const std::string& role) {
        return text(layout.turn_start) + " + " + role + " + " +
               text(std::string(layout.role_end) + std::string(layout.header));
    };
    const std::string content = layout.strips_content ? "(message['content'] | trim)" : "message['content']";
    std::string out;
    if (!layout.row_start.empty()) out += "{{- " + text(layout.row_start) + " }}\n";
    out += "{%- for message in messages %}\n{{- " + header("message['role']") + " + " + content + " + " +
           text(std::string(layout.turn_end) + std::string(layout.gap)) + " }}\n{%- endfor %}\n";
    out += "{%- if add_generation_prompt %}\n{{- " + header(text(name_of(Role::kAssistant))) +
           " }}\n{%- endif %}";
    return out;
}

std::vector<std::string> control_tokens(const ChatLayout& layout) {
    std::vector<std::string> tokens;
    for (const std::string_view token :
         {layout.row_start, layout.turn_start, layout.role_end, layout.turn_end}) {
        if (!token.empty()) tokens.emplace_back(token);
    }
    return tokens;
}

}  // namespace qlora::data
