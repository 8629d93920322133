#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/data/data_config.h"
#include "qlora/data/record_format.h"
#include "qlora/tokenizer/tokenizer.h"

namespace qlora::data {

enum class SegmentKind {
    kControl,   ///< spells one control token
    kTemplate,  ///< text that the template writes
    kContent,   ///< what the row says; never becomes a control token
    kPlain,     ///< what the row says, read as the checkpoint's tokenizer reads text: control tokens are
                ///< recognised
    kStart,     ///< what the tokenizer puts before a text (a BOS, if its post-processor adds one); no text
    kEnd,       ///< EOS, unless the tokens before it end in one; no text
};

/// A piece of a rendered row. Adjacent text of one answer, or outside of answers, is encoded as one string;
/// nothing is joined across the edge of an answer, so no token crosses it.
struct Segment {
    std::string text;
    SegmentKind kind = SegmentKind::kContent;
    bool supervised = false;
    int answer = -1;  ///< which answer of the row it belongs to (content and end-of-turn token), -1 = none
    bool switched_off = false;  ///< the row says that this turn is never trained
};

/// Tokens [begin, end) of one answer, its end-of-turn token included.
struct AnswerSpan {
    std::size_t begin = 0;
    std::size_t end = 0;
    bool supervised = false;
    bool plain = false;  ///< came from kPlain text, in which control tokens are recognised
};

struct EncodedRow {
    std::vector<tokenizer::TokenId> ids;
    std::vector<std::uint8_t> supervised;
    std::vector<AnswerSpan> answers;
};

struct ChatLayout;

/// Turns rows into tokens for one checkpoint. `auto` takes the checkpoint's chat template when the hash of
/// its text is a known one; a checkpoint without one gets `alpaca` for instructions and plain text for texts
/// and pairs. Keeps a reference to the tokenizer.
class PromptTemplate {
  public:
    /// `chat_template`: the checkpoint's, see read_chat_template; only `auto` looks at it.
    /// ConfigError when a control token is missing from the tokenizer or the chat template is not recognised.
    PromptTemplate(TemplateName choice, const std::optional<std::string>& chat_template,
                   const tokenizer::Tokenizer& tokenizer, const tokenizer::SpecialTokens& special);

    /// The chosen template, for logs: "chatml", "smollm2 (the checkpoint's own)", ...
    const std::string& name() const { return name_; }
    const tokenizer::Tokenizer& tokenizer() const { return tokenizer_; }
    const tokenizer::SpecialTokens& special() const { return special_; }

    /// DataError (the reason only) when the template has no form for this kind of row.
    std::vector<Segment> render(const Record& record, TrainOn train_on) const;
    /// What stands before the answer to come; `record.messages` holds the turns so far. For kText: the text
    /// itself.
    std::vector<Segment> render_prompt(const Record& record) const;

    EncodedRow encode(const std::vector<Segment>& segments) const;

    /// Generation stops at any of these.
    std::vector<tokenizer::TokenId> end_token_ids() const;

    /// The token that ends every answer (the turn's end, or EOS); nothing where text is taken as it is.
    std::optional<tokenizer::TokenId> answer_end() const;
    /// Of a template chosen by its name: the same as Jinja for transformers' apply_chat_template. Nothing for
    /// `none`, and for `auto`, which is the model's own or no template.
    std::optional<std::string> chat_template() const;

    /// What must never come out of encoding content.
    const std::vector<tokenizer::TokenId>& control_ids() const { return control_ids_; }

  private:
    /// What the tokenizer puts before a text, spelled.
    std::string start_text() const;
    void use_layout(const ChatLayout& layout, const std::string& name);
    TemplateName choice_for(const Record& record) const;
    std::vector<Segment> render_record(const Record& record, bool prompt_only) const;

    const tokenizer::Tokenizer& tokenizer_;
    tokenizer::SpecialTokens special_;
    TemplateName choice_;
    std::string name_;
    const ChatLayout* layout_ = nullptr;
    std::vector<tokenizer::TokenId> start_ids_;
    std::vector<tokenizer::TokenId> control_ids_;
};

/// The chat template of a model folder: chat_template.jinja, else `chat_template` of tokenizer_config.json (a
/// string, or a list of named ones of which `default` counts).
std::optional<std::string> read_chat_template(const std::filesystem::path& folder);

/// Proves on the token ids of a whole row (not truncated) that exactly the answers are supervised: answers do
/// not overlap, each ends in an end token and holds no other control token, and no token outside of them is
/// supervised (with `all`: every token but the first is). Throws DataError with what failed.
void prove_answer_mask(const EncodedRow& row, const PromptTemplate& prompt_template, TrainOn train_on);

/// Proves that generation sees the prompt that training saw: the ids before the last answer are those of the
/// prompt rendered alone.
void prove_prompt_prefix(const Record& record, const EncodedRow& row, const PromptTemplate& prompt_template);

}  // namespace qlora::data
