#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "qlora/data/prompt_template.h"

namespace qlora::data {

/// A chat format as data. A row is `row_start`, then for each turn: turn_start role role_end header content
/// turn_end gap. row_start, turn_start, role_end and turn_end spell control tokens (row_start and role_end
/// may be empty).
struct ChatLayout {
    std::string_view name;
    std::string_view row_start;
    std::string_view turn_start;
    std::string_view role_end;
    std::string_view header;  ///< text between role and content
    std::string_view turn_end;
    std::string_view gap;             ///< text after a turn; never supervised
    std::string_view default_system;  ///< content of a system turn put before a row that has none
    bool strips_content = false;
};

const ChatLayout& chatml_layout();
const ChatLayout& llama3_layout();

/// The layout of a checkpoint's own chat template: one that chat_template_of wrote, or known by the XXH3-128
/// of its text; nullptr when it is neither.
/// One line end after the text does not count, as in Jinja.
const ChatLayout* recognised_layout(std::string_view chat_template);
/// Jinja drops one line end after a template.
std::string_view without_line_end(std::string_view chat_template);
std::string hash_of_chat_template(std::string_view chat_template);

/// The layout as a chat template of transformers: Jinja that gives the same text for the same turns. Of
/// layouts without a default system turn.
std::string chat_template_of(const ChatLayout& layout);

/// The control tokens of a layout.
std::vector<std::string> control_tokens(const ChatLayout& layout);

std::vector<Segment> render_turns(const ChatLayout& layout, const Record& record, bool prompt_only);

}  // namespace qlora::data
