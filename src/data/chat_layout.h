#pragma once

#include <string>
#include <string_view>
#include <vector>

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
    std::string_view gap;  ///< text after a turn; never supervised
    bool strips_content = false;
};

const ChatLayout& chatml_layout();
const ChatLayout& llama3_layout();

/// Jinja drops one line end after a template.
std::string_view without_line_end(std::string_view chat_template);

/// The layout as a chat template of transformers.
std::string chat_template_of(const ChatLayout& layout);

/// The control tokens of a layout.
std::vector<std::string> control_tokens(const ChatLayout& layout);

}  // namespace qlora::data
