#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qlora/data/data_config.h"
#include "qlora/data/record_format.h"
#include "qlora/data/rendered_row.h"
#include "qlora/jinja/template.h"
#include "qlora/tokenizer/tokenizer.h"

namespace qlora::data {

/// What a chat template may see besides a row, and how its text ends.
struct TemplateInputs {
    Json special_tokens = Json::object();  ///< bos_token, eos_token, ...: how the tokens are spelled
    Json arguments;                        ///< null, or an object of variables (enable_thinking, ...)
    Json tools;                            ///< null, or a list: of rows that have none of their own
    Json documents;                        ///< the same
    jinja::LocalTime clock;                ///< what strftime_now tells
    /// The template of rows with tools, where the model has one for them.
    std::optional<std::string> tool_use;
    std::vector<tokenizer::TokenId> end_ids;  ///< generation_config.json's eos_token_id
};

class ChatTemplate;
struct ChatLayout;

/// Turns rows into tokens for one checkpoint. `auto` takes the checkpoint's chat template; a checkpoint
/// without one gets `alpaca` for instructions and plain text for texts and pairs. Keeps a reference to the
/// tokenizer. May be used by several threads at once.
class PromptTemplate {
  public:
    /// `chat_template`: the checkpoint's, see read_chat_template; only `auto` looks at it. ConfigError when a
    /// control token that a named template needs is missing from the tokenizer, or where nothing reads what
    /// `inputs` give; CheckpointError when the template cannot be parsed.
    PromptTemplate(TemplateName choice, const std::optional<std::string>& chat_template,
                   const tokenizer::Tokenizer& tokenizer, const tokenizer::SpecialTokens& special,
                   const TemplateInputs& inputs = {});
    /// A chat template of a file, `name`.
    PromptTemplate(const std::string& chat_template, const std::string& name,
                   const tokenizer::Tokenizer& tokenizer, const tokenizer::SpecialTokens& special,
                   const TemplateInputs& inputs = {});

    /// The chosen template, for logs: "chatml", "smollm2 (the checkpoint's own)", ...
    const std::string& name() const { return name_; }
    const tokenizer::Tokenizer& tokenizer() const { return tokenizer_; }
    const tokenizer::SpecialTokens& special() const { return special_; }

    /// DataError (the reason only) when the template has no form for this kind of row.
    RenderedRow render(const Record& record, TrainOn train_on) const;
    /// What stands before the answer to come; `record.messages` holds the turns so far. For kText: the text
    /// itself.
    RenderedRow render_prompt(const Record& record) const;

    EncodedRow encode(const RenderedRow& row) const;

    /// Generation stops at any of these.
    std::vector<tokenizer::TokenId> end_token_ids() const;

    /// The token that ends every answer (the turn's end, or EOS); nothing where text is taken as it is.
    std::optional<tokenizer::TokenId> answer_end() const;
    /// The template as Jinja, for transformers' apply_chat_template. Nothing for `none`, and for `auto`,
    /// which is the model's own or no template.
    std::optional<std::string> chat_template() const;
    /// The text of a row may tell the time at which the run began.
    bool tells_time() const;

    /// What must never come out of encoding content.
    const std::vector<tokenizer::TokenId>& control_ids() const { return control_ids_; }

  private:
    /// What the tokenizer puts before a text, spelled.
    std::string start_text() const;
    void settle_ends(const TemplateInputs& inputs);
    std::shared_ptr<const ChatTemplate> parsed(const std::string& text, const std::string& name,
                                               const TemplateInputs& inputs) const;
    void use_chat_template(const std::string& text, const std::string& name, const TemplateInputs& inputs);
    void use_layout(const ChatLayout& layout, const TemplateInputs& inputs);
    void refuse_unread_inputs(const TemplateInputs& inputs) const;
    TemplateName choice_for(const Record& record) const;
    const ChatTemplate& chat_for(const Record& record) const;
    RenderedRow render_plainly(const Record& record, TrainOn train_on, bool prompt_only) const;

    const tokenizer::Tokenizer& tokenizer_;
    tokenizer::SpecialTokens special_;
    TemplateName choice_;
    std::string name_;
    std::optional<std::string> own_text_;  ///< of a template that is not the model's
    bool is_built_in_ = false;             ///< chatml or llama3, which write roles and contents alone
    std::shared_ptr<const ChatTemplate> chat_, tool_chat_;
    bool gives_tools_ = false;  ///< rows without tools get some
    std::vector<tokenizer::TokenId> start_ids_;
    std::vector<tokenizer::TokenId> end_ids_;
    std::vector<tokenizer::TokenId> control_ids_;
};

/// The chat template of a model folder: chat_template.jinja, else `chat_template` of tokenizer_config.json (a
/// string, or a list of named ones of which `default` counts).
std::optional<std::string> read_chat_template(const std::filesystem::path& folder);
/// The one named tool_use, which transformers takes for rows with tools.
std::optional<std::string> read_tool_template(const std::filesystem::path& folder);

/// Where transformers keeps the template of that name in a model folder, but for the default one.
std::string named_template_file(const std::string& name);
/// The templates that a model folder has besides the default one, by their names: those that are files, and
/// with `listed`, where there is no file, those that tokenizer_config.json lists.
std::map<std::string, std::string> read_named_templates(const std::filesystem::path& folder, bool listed);

/// Proves on the token ids of a whole row (not truncated) that exactly the answers are supervised: answers do
/// not overlap, each that ends, ends in an end token, and holds no other, and no token outside of them is
/// supervised (with `all`: every token but the first is). Throws DataError with what failed.
void prove_answer_mask(const EncodedRow& row, const PromptTemplate& prompt_template, TrainOn train_on);

/// Generation sees other tokens before the last answer than training: what stands there instead.
struct PromptDifference {
    std::string trained;   ///< from the first token that differs up to the answer
    std::string inferred;  ///< the same of the prompt rendered alone
};

/// Compares the ids before the last answer with those of the prompt rendered alone; nothing where they are
/// the same, and where a row has no prompt. Throws DataError where the prompt cannot be rendered alone.
std::optional<PromptDifference> prompt_difference(const Record& record, const EncodedRow& row,
                                                  const PromptTemplate& prompt_template);

}  // namespace qlora::data
