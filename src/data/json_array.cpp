#include "json_array.h"

#include <algorithm>
#include <utility>

#include "json_value_end.h"
#include "qlora/core/error.h"

namespace qlora::data {
namespace {

std::int64_t newlines_in(std::string_view text) {
    return std::count(text.begin(), text.end(), '\n');
}

}  // namespace

JsonArray::JsonArray(const std::filesystem::path& file, std::unique_ptr<ByteReader> bytes)
    : bytes_(std::move(bytes)) {
    const char first = skip_blanks();
    if (first == '[') {
        bytes_->skip(1);
        return;
    }
    if (!bytes_->peek().empty()) {
        throw DataError(file.string() + ":" + std::to_string(line_) + ": " +
                        (first == '{' ? "an object that goes over several lines; " : "") +
                        "a data file must hold a list of rows, so begin with \"[\", or one object a line");
    }
    done_ = true;  // empty: the caller says that there are no rows
}

// The next byte that is not white space, 0 at the end of the file (or for a NUL byte).
char JsonArray::skip_blanks() {
    for (std::string_view piece = bytes_->peek(); !piece.empty(); piece = bytes_->peek()) {
        const std::size_t blanks = std::min(piece.find_first_not_of(kJsonBlanks), piece.size());
        line_ += newlines_in(piece.substr(0, blanks));
        bytes_->skip(blanks);
        if (blanks < piece.size()) return piece[blanks];
    }
    return '\0';
}

bool JsonArray::finish(const std::string& fault) {
    fault_ = fault;
    done_ = true;
    bytes_->drain();
    return false;
}

// Passes the comma before an element; false at the end of the array, with fault_ set when it is damaged.
bool JsonArray::find_next_element() {
    char c = skip_blanks();
    if (element_ >= 0 && c == ',') {
        bytes_->skip(1);
        c = skip_blanks();
        if (c == ']') return finish("a comma before the end of the list");
    } else if (element_ >= 0 && c != ']' && !bytes_->peek().empty()) {
        return finish("a comma or \"]\" must follow a row");
    }
    if (bytes_->peek().empty())
        return finish("the file ends before the list does (no \"]\"); it seems to be cut");
    if (c == ',' || c == '}') return finish("a row is missing before this place");
    if (c != ']') return true;
    bytes_->skip(1);
    skip_blanks();
    return finish(bytes_->peek().empty() ? "" : "text follows the end of the list");
}

bool JsonArray::read_element() {
    gathered_.clear();
    begin_ = line_;
    JsonValueEnd end;
    bool complete = false;
    while (!complete) {
        const std::string_view piece = bytes_->peek();
        if (piece.empty()) return finish("the file ends inside this row; it seems to be cut");
        const std::size_t size = end.consume(piece, complete);
        gathered_.append(piece.substr(0, size));
        line_ += newlines_in(piece.substr(0, size));
        bytes_->skip(size);
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
