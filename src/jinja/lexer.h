#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qlora::jinja {

enum class TokenType : std::uint8_t {
    kData,           // text between tags
    kBlockBegin,     // {%
    kBlockEnd,       // %}
    kVariableBegin,  // {{
    kVariableEnd,    // }}
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd,
};

struct Token {
    TokenType type;
    int line;
    std::string text;  // of a string what it means; of a number and an operator what is written

    bool is(TokenType wanted, std::string_view wanted_text) const {
        return type == wanted && text == wanted_text;
    }
    bool is_name(std::string_view name) const { return is(TokenType::kName, name); }
    bool is_operator(std::string_view name) const { return is(TokenType::kOperator, name); }
};

/// Cuts a template into tokens as jinja2 does with trim_blocks and lstrip_blocks; comments are left out, and
/// the last token is kEnd. `source` must be UTF-8. Throws SyntaxError.
std::vector<Token> tokenize(std::string_view source, const std::string& name);

/// The meaning of a literal between its quotes, with Python's escapes. Throws SyntaxError.
std::string unescape(std::string_view literal, const std::string& name, int line);

}  // namespace qlora::jinja
