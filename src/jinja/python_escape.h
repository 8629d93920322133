#pragma once

#include <cstdio>
#include <string>

namespace qlora::jinja {

/// A character as Python's repr escapes one that it does not print: \\n, \\x1b, \\u200b, \\U000e0001.
inline std::string python_escape(char32_t code) {
    if (code == '\n') return "\\n";
    if (code == '\t') return "\\t";
    if (code == '\r') return "\\r";
    const char* form = code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x";
    char text[16];
    std::snprintf(text, sizeof text, form, static_cast<unsigned>(code));
    return text;
}

}  // namespace qlora::jinja
