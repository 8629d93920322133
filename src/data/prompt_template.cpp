#include "qlora/data/prompt_template.h"

#include <algorithm>

#include "chat_layout.h"
#include "chat_template.h"
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

}  // namespace

PromptTemplate::PromptTemplate(TemplateName choice, const std::optional<std::string>& chat_template,
                               const tokenizer::Tokenizer& tokenizer, const tokenizer::SpecialTokens& special,
                               const TemplateInputs& inputs)
    : tokenizer_(tokenizer), special_(special), choice_(choice), start_ids_(start_of_text(tokenizer)) {
    if (choice == TemplateName::kChatml) {
        use_layout(chatml_layout(), inputs);
    } else if (choice == TemplateName::kLlama3) {
        use_layout(llama3_layout(), inputs);
    } else if (choice == TemplateName::kAlpaca) {
        name_ = "alpaca";
    } else if (choice == TemplateName::kNone) {
        name_ = "none";
    } else if (chat_template && without_line_end(*chat_template) == alpaca_chat_template(start_text())) {
        choice_ = TemplateName::kAlpaca;
        name_ = "alpaca (the model's own chat template)";
    } else if (chat_template) {
        use_chat_template(*chat_template, "the model's own chat template", inputs);
        if (inputs.tool_use)
            tool_chat_ = parsed(*inputs.tool_use, "the model's chat template for tools", inputs);
    } else {
        name_ = "alpaca for instructions, plain text otherwise (the model has no chat template)";
    }
    settle_ends(inputs);
}

PromptTemplate::PromptTemplate(const std::string& chat_template, const std::string& name,
                               const tokenizer::Tokenizer& tokenizer, const tokenizer::SpecialTokens& special,
                               const TemplateInputs& inputs)
    : tokenizer_(tokenizer),
      special_(special),
      choice_(TemplateName::kAuto),
      own_text_(chat_template),
      start_ids_(start_of_text(tokenizer)) {
    use_chat_template(chat_template, name, inputs);
    settle_ends(inputs);
}

void PromptTemplate::settle_ends(const TemplateInputs& inputs) {
    if (chat_) add_once(end_ids_, chat_->turn_end());
    add_once(end_ids_, special_.eos);
    if (chat_) {
        for (const tokenizer::TokenId id : inputs.end_ids) add_once(end_ids_, id);
    }
    // A model may stop at a piece of text; that is no control token.
    for (const tokenizer::TokenId id : end_ids_) {
        if (tokenizer_.is_special(id)) add_once(control_ids_, id);
    }
    add_once(control_ids_, special_.eos);
    add_once(control_ids_, special_.bos);
    gives_tools_ = !inputs.tools.is_null();
    refuse_unread_inputs(inputs);
}

std::shared_ptr<const ChatTemplate> PromptTemplate::parsed(const std::string& text, const std::string& name,
                                                           const TemplateInputs& inputs) const {
    std::vector<std::string> ends;
    const auto add = [&](tokenizer::TokenId id) {
        if (tokenizer_.is_special(id)) ends.push_back(tokenizer_.id_to_token(id));
    };
    if (special_.eos) add(*special_.eos);
    for (const tokenizer::TokenId id : inputs.end_ids) add(id);
    auto out = std::make_shared<ChatTemplate>(jinja::Template::parse(text, name), tokenizer_, inputs,
                                              std::move(ends));
    if (!out->mentions("messages"))
        throw ConfigError("data.template: " + name +
                          " does not read \"messages\", so it is no chat template");
    return out;
}

void PromptTemplate::use_chat_template(const std::string& text, const std::string& name,
                                       const TemplateInputs& inputs) {
    name_ = name;
    chat_ = parsed(text, name, inputs);
}

void PromptTemplate::use_layout(const ChatLayout& layout, const TemplateInputs& inputs) {
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
    is_built_in_ = true;
    own_text_ = chat_template_of(layout);
    use_chat_template(*own_text_, std::string(layout.name), inputs);
}

/// Settings that nothing reads would be ignored in silence.
void PromptTemplate::refuse_unread_inputs(const TemplateInputs& inputs) const {
    const auto reads = [&](const std::string& variable) {
        return (chat_ && chat_->mentions(variable)) || (tool_chat_ && tool_chat_->mentions(variable));
    };
    FaultList faults;
    const auto check = [&](const std::string& setting, const std::string& variable) {
        if (!reads(variable))
            faults.add(setting, "is not read by the template (" + name_ + "); leave it out");
    };
    if (inputs.arguments.is_object()) {
        for (const auto& [name, value] : inputs.arguments.items())
            check("data.template_arguments." + name, name);
    }
    if (!inputs.tools.is_null()) check("data.tools", "tools");
    if (!inputs.documents.is_null()) check("data.documents", "documents");
    faults.throw_if_any<ConfigError>("the configuration does not fit the template");
}

std::string PromptTemplate::start_text() const {
    std::string out;
    for (const tokenizer::TokenId id : start_ids_) out += tokenizer_.id_to_token(id);
    return out;
}

// What `auto` comes to for this row.
TemplateName PromptTemplate::choice_for(const Record& record) const {
    if (record.kind == RecordKind::kText) return TemplateName::kNone;
    if (choice_ != TemplateName::kAuto || chat_) return choice_;
    return record.kind == RecordKind::kInstruction ? TemplateName::kAlpaca : TemplateName::kNone;
}

const ChatTemplate& PromptTemplate::chat_for(const Record& record) const {
    return tool_chat_ && (gives_tools_ || !record.tools.is_null()) ? *tool_chat_ : *chat_;
}

RenderedRow PromptTemplate::render_plainly(const Record& record, TrainOn train_on, bool prompt_only) const {
    RenderedRow row = choice_for(record) == TemplateName::kAlpaca ? render_alpaca(record, prompt_only)
                                                                  : render_plain(record, prompt_only);
    row.trains_all = train_on == TrainOn::kAll;
    const bool is_off = !record.messages.empty() && record.messages.back().is_switched_off();
    for (AnswerText& answer : row.answers) {
        answer.switched_off = is_off;
        if (is_off) answer.supervised = false;
    }
    return row;
}

RenderedRow PromptTemplate::render(const Record& record, TrainOn train_on) const {
    const TemplateName choice = choice_for(record);
    const bool is_chat = choice != TemplateName::kAlpaca && choice != TemplateName::kNone;
    if (!is_chat || is_built_in_) refuse_unwritten_fields(record, name_);
    if (train_on == TrainOn::kAll) refuse_switched_off_questions(record);
    return is_chat ? chat_for(record).render(record, train_on) : render_plainly(record, train_on, false);
}

RenderedRow PromptTemplate::render_prompt(const Record& record) const {
    const TemplateName choice = choice_for(record);
    const bool is_chat = choice != TemplateName::kAlpaca && choice != TemplateName::kNone;
    return is_chat ? chat_for(record).render_prompt(record)
                   : render_plainly(record, TrainOn::kAssistant, true);
}

std::vector<tokenizer::TokenId> PromptTemplate::end_token_ids() const {
    return end_ids_;
}

std::optional<tokenizer::TokenId> PromptTemplate::answer_end() const {
    if (chat_) return chat_->turn_end();
    return choice_ == TemplateName::kAlpaca ? special_.eos : std::nullopt;
}

std::optional<std::string> PromptTemplate::chat_template() const {
    if (choice_ == TemplateName::kAlpaca) return alpaca_chat_template(start_text());
    return own_text_;
}

bool PromptTemplate::tells_time() const {
    const auto tells = [](const std::shared_ptr<const ChatTemplate>& chat) {
        return chat && chat->mentions("strftime_now");
    };
    return tells(chat_) || tells(tool_chat_);
}

}  // namespace qlora::data
