#pragma once

#include <string>

#include "qlora/data/record_format.h"
#include "qlora/data/rendered_row.h"

namespace qlora::data {

/// Stanford Alpaca's prompt, with or without an input, then the answer and EOS. `record`: one user and one
/// assistant turn (only the first with `prompt_only`).
RenderedRow render_alpaca(const Record& record, bool prompt_only);

/// The same prompt as a chat template of transformers, for one question without an input and perhaps its
/// answer. `start`: what the tokenizer puts before a text, spelled.
std::string alpaca_chat_template(const std::string& start);

/// Text as it is: a text, or a prompt and its completion, then EOS.
RenderedRow render_plain(const Record& record, bool prompt_only);

}  // namespace qlora::data
