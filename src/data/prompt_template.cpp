#include "qlora/data/prompt_template.h"

#include <algorithm>
#include <array>

#include "chat_layout.h"
#include "plain_layout.h"
#include "qlora/core/error.h"
#include "unwritten_fields.h"

namespace qlora::data {
namespace {

constexpr const char* kChoices = "chatml, llama3, alpaca or none";

// What the post-processor puts before a text, told from what it puts behind.
std::vector<tokenizer::TokenId> start_of_text(const tokenizer::Tokenizer& tokenizer) {
    const std::string_view probe = "a";
    const auto bare = tokenizer.encode(probe, {.parse_special = true, .add_special_tokens = false});
    const auto full = tokenizer.encode(probe, {.parse_special = true, .add_special_tokens = true});
    const auto found = std::search(full.begin(), full.end(), bare.begin(), bare.end());
    if (found == full.end()) return {};
    return {full.begin(), found};
}

void add_once(std::vector<tokenizer::TokenId>& ids, std::optional<tokenizer::TokenId> id) {
    if (id && std::find(ids.begin(), ids.end(), *id) == ids.end()) ids.push_back(*id);
}

void apply_train_on(std::vector<Segment>& segments, TrainOn train_on) {
    int last = -1;
    for (const Segment& segment : segments) last = std::max(last, segment.answer);
    for (Segment& segment : segments) {
        if (train_on == TrainOn::kAll) segment.supervised = true;
        if (segment.switched_off) segment.supervised = false;
        if (train_on == TrainOn::kLastAssistant && segment.answer != last) segment.supervised = false;
    }
}

}  // namespace

PromptTemplate::PromptTemplate(TemplateName choice, const std::optional<std::string>& chat_template,
                               const tokenizer::Tokenizer& tokenizer, const tokenizer::SpecialTokens& special)
    : tokenizer_(tokenizer), special_(special), choice_(choice), start_ids_(start_of_text(tokenizer)) {
    if (choice == TemplateName::kChatml) {
        use_layout(chatml_layout(), "chatml");
    } else if (choice == TemplateName::kLlama3) {
        use_layout(llama3_layout(), "llama3");
    } else if (choice == TemplateName::kAlpaca) {
        name_ = "alpaca";
    } else if (choice == TemplateName::kNone) {
        name_ = "none";
    } else if (chat_template && without_line_end(*chat_template) == alpaca_chat_template(start_text())) {
        choice_ = TemplateName::kAlpaca;
        name_ = "alpaca (the model's own chat template)";
    } else if (chat_template) {
        const ChatLayout* layout = recognised_layout(*chat_template);
        if (layout == nullptr) {
            throw ConfigError("data.template: the chat template of this model (hash " +
                              hash_of_chat_template(*chat_template) +
                              ") is not one that auto recognises; choose " + kChoices);
        }
        use_layout(*layout, std::string(layout->name) + " (the model's own chat template)");
    } else {
        name_ = "alpaca for instructions, plain text otherwise (the model has no chat template)";
    }
    add_once(control_ids_, special_.eos);
    add_once(control_ids_, special_.bos);
}

std::string PromptTemplate::start_text() const {
    std::string out;
    for (const tokenizer::TokenId id : start_ids_) out += tokenizer_.id_to_token(id);
    return out;
}

void PromptTemplate::use_layout(const ChatLayout& layout, const std::string& name) {
    std::string missing;
    for (const std::string& token : control_tokens(layout)) {
        const std::optional<tokenizer::TokenId> id = tokenizer_.token_to_id(token);
        add_once(control_ids_, id);
        if (!id) missing += (missing.empty() ? "" : ", ") + token;
    }
    if (!missing.empty()) {
        throw ConfigError("data.template: " + std::string(layout.name) +
                          " needs tokens that this model's tokenizer does not have (" + missing +
                          "); choose another of " + kChoices);
    }
    layout_ = &layout;
    name_ = name;
}

// What `auto` comes to for this row.
TemplateName PromptTemplate::choice_for(const Record& record) const {
    if (record.kind == RecordKind::kText) return TemplateName::kNone;
    if (choice_ != TemplateName::kAuto || layout_ != nullptr) return choice_;
    return record.kind == RecordKind::kInstruction ? TemplateName::kAlpaca : TemplateName::kNone;
}

std::vector<Segment> PromptTemplate::render_record(const Record& record, bool prompt_only) const {
    const TemplateName choice = choice_for(record);
    if (choice == TemplateName::kAlpaca) return render_alpaca(record, prompt_only);
    if (choice == TemplateName::kNone) return render_plain(record, prompt_only);
    return render_turns(*layout_, record, prompt_only);
}

std::vector<Segment> PromptTemplate::render(const Record& record, TrainOn train_on) const {
    refuse_unwritten_fields(record, name_);
    if (train_on == TrainOn::kAll) refuse_switched_off_questions(record);
    std::vector<Segment> segments = render_record(record, false);
    apply_train_on(segments, train_on);
    return segments;
}

std::vector<Segment> PromptTemplate::render_prompt(const Record& record) const {
    return render_record(record, true);
}

std::vector<tokenizer::TokenId> PromptTemplate::end_token_ids() const {
    std::vector<tokenizer::TokenId> ids;
    if (layout_ != nullptr) add_once(ids, tokenizer_.token_to_id(layout_->turn_end));
    add_once(ids, special_.eos);
    return ids;
}

std::optional<tokenizer::TokenId> PromptTemplate::answer_end() const {
    if (layout_ != nullptr) return tokenizer_.token_to_id(layout_->turn_end);
    return choice_ == TemplateName::kAlpaca ? special_.eos : std::nullopt;
}

std::optional<std::string> PromptTemplate::chat_template() const {
    switch (choice_) {
        case TemplateName::kChatml:
        case TemplateName::kLlama3:
            return chat_template_of(*layout_);
        case TemplateName::kAlpaca:
            return alpaca_chat_template(start_text());
        case TemplateName::kAuto:
        case TemplateName::kNone:
            break;
    }
    return std::nullopt;
}

}  // namespace qlora::data
