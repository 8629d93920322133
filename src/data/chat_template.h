#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "answer_text.h"
#include "qlora/data/prompt_template.h"
#include "qlora/jinja/template.h"

namespace qlora::data {

/// A chat template that runs: conversations become text, and it is known of each byte of the text who wrote
/// it. Keeps references to the tokenizer.
class ChatTemplate {
  public:
    /// `end_tokens`: how the tokens are spelled that end a turn or a text.
    ChatTemplate(jinja::Template program, const tokenizer::Tokenizer& tokenizer, TemplateInputs inputs,
                 std::vector<std::string> end_tokens);

    /// Throws DataError with the reason: what the template refuses, what it has no place for, an answer that
    /// it does not write whole.
    RenderedRow render(const Record& record, TrainOn train_on) const;
    /// The turns so far and what the template writes before an answer.
    RenderedRow render_prompt(const Record& record) const;

    /// The control token that ends an answer, where the template writes one behind it.
    std::optional<tokenizer::TokenId> turn_end() const { return turn_end_; }
    bool mentions(std::string_view variable) const { return program_.mentions(variable); }

  private:
    /// A row's turns and what the template has read of them.
    struct Turns {
        std::vector<Message> messages;
        const Record& record;
        jinja::Conversation read;
    };

    Turns turns_of(const Record& record) const;
    jinja::Rendering run(const Turns& turns, std::size_t messages, bool asks) const;
    std::vector<InputRun> inputs_of(const jinja::Rendering& rendering) const;
    /// What the template writes for an answer to come, behind the last input of the turns before it.
    std::string opening(const Turns& turns, std::size_t answer) const;
    std::size_t header_size(std::string_view gap, const std::string& opening) const;
    std::size_t first_header_size(const Turns& turns, std::string_view gap) const;
    /// With `asks`, and where the turn says nothing, the answer begins behind what the template writes when
    /// it asks for one; else where the turn's own words begin.
    AnswerText answer_at(const MessagePlace& place, const Turns& turns, std::size_t answer, bool asks,
                         std::string_view text) const;
    void mark_by_blocks(const jinja::Rendering& rendering, const std::vector<InputRun>& runs,
                        const Turns& turns, RenderedRow& row) const;
    void refuse_unwritten(const jinja::Rendering& rendering, const std::vector<InputRun>& runs,
                          const Turns& turns, TrainOn train_on, RenderedRow& row) const;
    void refuse_unread_fields(const Record& record) const;
    std::optional<tokenizer::TokenId> find_turn_end() const;
    std::optional<tokenizer::TokenId> turn_end_of(const Turns& turns) const;

    jinja::Template program_;
    const tokenizer::Tokenizer& tokenizer_;
    TemplateInputs inputs_;
    std::vector<std::string> special_names_;
    std::vector<std::string> end_tokens_;
    std::optional<tokenizer::TokenId> turn_end_;
};

}  // namespace qlora::data
