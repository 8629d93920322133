#include "chat_layout.h"

#include <array>

#include "jinja_text.h"
#include "qlora/core/hash.h"
#include "white_space.h"

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

constexpr ChatLayout kSmolLm2{
    .name = "smollm2",
    .turn_start = "<|im_start|>",
    .header = "\n",
    .turn_end = "<|im_end|>",
    .gap = "\n",
    .default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"};

struct KnownTemplate {
    std::string_view hash;
    const ChatLayout* layout;
};
// To add one: its layout above, the hash of its text here, and a peer test against apply_chat_template.
constexpr std::array<KnownTemplate, 1> kKnownTemplates = {{{"98f63cc3d421d28f99ab995e9629dacd", &kSmolLm2}}};

// Appends the pieces of turns.
class TurnWriter {
  public:
    explicit TurnWriter(const ChatLayout& layout) : layout_(layout) { control(layout.row_start, -1, false); }

    void header(Role role) {
        control(layout_.turn_start, -1, false);
        text(std::string(name_of(role)));
        control(layout_.role_end, -1, false);
        text(std::string(layout_.header));
    }
    void turn(const Message& message, int answer, bool supervised) {
        header(message.role());
        const std::size_t begin = segments_.size();
        std::string_view content = message.content();
        if (layout_.strips_content) content = strip(content);
        segments_.push_back({std::string(content), SegmentKind::kContent, supervised, answer});
        control(layout_.turn_end, answer, supervised);
        for (std::size_t i = begin; i < segments_.size(); ++i)
            segments_[i].switched_off = message.is_switched_off();
        text(std::string(layout_.gap));
    }
    std::vector<Segment> take() { return std::move(segments_); }

  private:
    void control(std::string_view token, int answer, bool supervised) {
        if (!token.empty())
            segments_.push_back({std::string(token), SegmentKind::kControl, supervised, answer});
    }
    void text(std::string words) {
        if (!words.empty()) segments_.push_back({std::move(words), SegmentKind::kTemplate, false, -1});
    }

    const ChatLayout& layout_;
    std::vector<Segment> segments_;
};

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

std::string hash_of_chat_template(std::string_view chat_template) {
    Xxh3 hash;
    hash.update(without_line_end(chat_template));
    return hash.hex();
}

const ChatLayout* recognised_layout(std::string_view chat_template) {
    const std::string_view text = without_line_end(chat_template);
    for (const ChatLayout* ours : {&kChatml, &kLlama3}) {
        if (text == chat_template_of(*ours)) return ours;
    }
    const std::string hash = hash_of_chat_template(chat_template);
    for (const KnownTemplate& known : kKnownTemplates) {
        if (known.hash == hash) return known.layout;
    }
    return nullptr;
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

std::vector<Segment> render_turns(const ChatLayout& layout, const Record& record, bool prompt_only) {
    TurnWriter writer(layout);
    const std::vector<Message> messages = chat_turns(record);
    const bool has_system = !messages.empty() && messages.front().role() == Role::kSystem;
    if (!has_system && !layout.default_system.empty()) {
        writer.turn(Message(Role::kSystem, std::string(layout.default_system)), -1, false);
    }
    int answers = 0;
    for (std::size_t i = 0; i < messages.size(); ++i) {
        const Message& message = messages[i];
        const bool is_answer = message.role() == Role::kAssistant;
        writer.turn(message, is_answer ? answers++ : -1, is_answer && i >= record.context);
    }
    if (prompt_only) writer.header(Role::kAssistant);
    return writer.take();
}

}  // namespace qlora::data
