#include "json_lines.h"

#include "qlora/core/utf8.h"

namespace qlora::data {
namespace {

constexpr std::string_view kBlank = " \t\r";

}  // namespace

// A line that lies in one piece of the file is not copied.
bool JsonLines::read_line() {
    bytes_->skip(consumed_);
    consumed_ = 0;
    gathered_.clear();
    bool any = false;
    for (;;) {
        const std::string_view piece = bytes_->peek();
        if (piece.empty()) {
            line_ = gathered_.text();
            fault_ = gathered_.fault();
            return any;
        }
        const std::size_t newline = piece.find('\n');
        if (newline == std::string_view::npos) {
            gathered_.append(piece);
            bytes_->skip(piece.size());
            any = true;
            continue;
        }
        consumed_ = newline + 1;
        if (any) {
            gathered_.append(piece.substr(0, newline));
            line_ = gathered_.text();
            fault_ = gathered_.fault();
        } else {
            line_ = piece.substr(0, newline);
            fault_ = fault_of_piece(line_, 0);
        }
        return true;
    }
}

void JsonLines::trim_line() {
    // The JSON parser would skip it. The one that may begin a file was passed over when the file was opened.
    if (line_.starts_with(kByteOrderMark) && fault_.empty())
        fault_ = "a byte order mark inside the file; it may only begin it";
    while (!line_.empty() && kBlank.find(line_.back()) != std::string_view::npos) line_.remove_suffix(1);
    if (line_.find_first_not_of(kBlank) == std::string_view::npos) line_ = {};
}

bool JsonLines::next(RawRow& row) {
    while (read_line()) {
        ++number_;
        trim_line();
        if (line_.empty() && fault_.empty()) continue;
        row.text = line_;
        row.line = number_;
        row.element = -1;
        row.fault = fault_;
        return true;
    }
    return false;
}

}  // namespace qlora::data
