#include "json_array.h"

#include <algorithm>

#include "qlora/core/error.h"

namespace qlora::data {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

std::int64_t newlines_in(std::string_view text) {
    return std::count(text.begin(), text.end(), '\n');
}

// Follows brackets and strings to the end of one JSON value. A value without brackets ends before a comma, a
// closing bracket or white space.
class ElementEnd {
  public:
    /// How many bytes of `piece` belong to the element; sets `complete` when its end was seen.
    std::size_t consume(std::string_view piece, bool& complete) {
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
            if (depth_ == 0 && (c == ',' || c == ']' || c == '}' || is_blank(c))) {
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

  private:
    std::int64_t depth_ = 0;
    bool in_string_ = false;
    bool escaped_ = false;
};

}  // namespace

JsonArray::JsonArray(const std::filesystem::path& file, Xxh3& hash) : file_(file), bytes_(file, hash) {
    if (bytes_.peek().substr(0, kByteOrderMark.size()) == kByteOrderMark) bytes_.skip(kByteOrderMark.size());
    const char first = skip_blanks();
    if (first == '[') {
        bytes_.skip(1);
        return;
    }
    const std::string place = file.string() + ":" + std::to_string(line_) + ": ";
    if (first == '{') {
        throw DataError(
            place +
            "a .json file must hold a list of rows, this one begins with an object; a file with one "
            "object a line must be named .jsonl");
    }
    if (!bytes_.peek().empty())
        throw DataError(place + "a .json file must hold a list of rows, so begin with \"[\"");
    done_ = true;  // empty: the caller says that there are no rows
}

// The next byte that is not white space, 0 at the end of the file (or for a NUL byte).
char JsonArray::skip_blanks() {
    for (std::string_view piece = bytes_.peek(); !piece.empty(); piece = bytes_.peek()) {
        const auto* const found = std::find_if_not(piece.begin(), piece.end(), is_blank);
        const auto blanks = static_cast<std::size_t>(found - piece.begin());
        line_ += newlines_in(piece.substr(0, blanks));
        bytes_.skip(blanks);
        if (blanks < piece.size()) return piece[blanks];
    }
    return '\0';
}

bool JsonArray::finish(const std::string& fault) {
    fault_ = fault;
    done_ = true;
    bytes_.drain();
    return false;
}

// Passes the comma before an element; false at the end of the array, with fault_ set when it is damaged.
bool JsonArray::find_next_element() {
    char c = skip_blanks();
    if (element_ >= 0 && c == ',') {
        bytes_.skip(1);
        c = skip_blanks();
        if (c == ']') return finish("a comma before the end of the list");
    } else if (element_ >= 0 && c != ']' && !bytes_.peek().empty()) {
        return finish("a comma or \"]\" must follow a row");
    }
    if (bytes_.peek().empty())
        return finish("the file ends before the list does (no \"]\"); it seems to be cut");
    if (c == ',' || c == '}') return finish("a row is missing before this place");
    if (c != ']') return true;
    bytes_.skip(1);
    skip_blanks();
    return finish(bytes_.peek().empty() ? "" : "text follows the end of the list");
}

bool JsonArray::read_element() {
    gathered_.clear();
    begin_ = line_;
    ElementEnd end;
    bool complete = false;
    while (!complete) {
        const std::string_view piece = bytes_.peek();
        if (piece.empty()) return finish("the file ends inside this row; it seems to be cut");
        const std::size_t size = end.consume(piece, complete);
        gathered_.append(piece.substr(0, size));
        line_ += newlines_in(piece.substr(0, size));
        bytes_.skip(size);
    }
    return true;
}

bool JsonArray::next(RawRow& row) {
    if (done_) return false;
    begin_ = line_;
    const bool found = find_next_element();
    ++element_;
    if (!found && fault_.empty()) return false;
    if (!found) {
        begin_ = line_;
        gathered_.clear();
    }
    const bool whole = found && read_element();
    row.text = gathered_.text();
    row.line = begin_;
    row.element = element_;
    row.fault = whole ? gathered_.fault() : fault_;
    return true;
}

}  // namespace qlora::data
