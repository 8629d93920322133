#include "json_value_end.h"

namespace qlora::data {

std::size_t JsonValueEnd::consume(std::string_view piece, bool& complete) {
    for (std::size_t i = 0; i < piece.size(); ++i) {
        const char c = piece[i];
        if (in_string_) {
            if (escaped_) {
                escaped_ = false;
            } else if (c == '\\') {
                escaped_ = true;
            } else if (c == '"') {
                in_string_ = false;
            }
            continue;
        }
        const bool is_blank = kJsonBlanks.find(c) != std::string_view::npos;
        if (depth_ == 0 && (c == ',' || c == ']' || c == '}' || is_blank)) {
            complete = true;
            return i;
        }
        if (c == '"') {
            in_string_ = true;
        } else if (c == '{' || c == '[') {
            ++depth_;
        } else if ((c == '}' || c == ']') && --depth_ == 0) {
            complete = true;
            return i + 1;
        }
    }
    return piece.size();
}

}  // namespace qlora::data
