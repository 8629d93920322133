#include "white_space.h"

#include <cstddef>

#include "qlora/core/code_points.h"

namespace qlora::data {

std::string_view strip(std::string_view text) {
    while (!text.empty() && is_python_space(decode_utf8(text, 0))) text.remove_prefix(utf8_length(text[0]));
    while (!text.empty()) {
        std::size_t begin = text.size() - 1;
        while (begin > 0 && is_utf8_continuation(text[begin])) --begin;
        if (!is_python_space(decode_utf8(text, begin))) break;
        text.remove_suffix(text.size() - begin);
    }
    return text;
}

}  // namespace qlora::data
