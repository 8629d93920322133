#include "json_cell.h"

#include <algorithm>

#include "json_value_end.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"

namespace qlora::data {
namespace {

bool are_messages(const Json& value) {
    const auto is_message = [](const Json& item) { return item.is_object() && item.contains("role"); };
    return value.is_array() && !value.empty() && std::all_of(value.begin(), value.end(), is_message);
}

}  // namespace

void append_json_string(std::string& out, std::string_view text) {
    constexpr const char* kDigits = "0123456789abcdef";
    out += '"';
    std::size_t plain = 0;  // where text that needs no escape begins
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto c = static_cast<unsigned char>(text[i]);
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        out += text.substr(plain, i - plain);
        plain = i + 1;
        if (c == '\n') {
            out += "\\n";
        } else if (c < 0x20) {
            out += "\\u00";
            out += kDigits[c >> 4];
            out += kDigits[c & 15];
        } else {
            out += '\\';
            out += static_cast<char>(c);
        }
    }
    out += text.substr(plain);
    out += '"';
}

void append_cell(std::string& out, bool is_message_column, std::string_view text) {
    if (is_message_column &&
        text.substr(std::min(text.find_first_not_of(kJsonBlanks), text.size())).starts_with('[')) {
        try {
            if (are_messages(parse_json(text, ""))) {
                out += text;
                return;
            }
        } catch (const ConfigError&) {
            // Text that begins with a bracket.
        }
    }
    append_json_string(out, text);
}

}  // namespace qlora::data
