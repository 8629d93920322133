#include "delimited_cells.h"

#include <algorithm>

namespace qlora::data {
namespace {

constexpr std::size_t kMostCells = 100'000;

}  // namespace

void DelimitedCells::refuse(const std::string& fault) {
    if (fault_.empty()) fault_ = fault;
}

void DelimitedCells::end_cell() {
    ++count_;
    place_ = Place::kCellBegin;
    if (count_ <= kMostCells) {
        ends_.push_back(text_.text().size());
    } else {
        refuse("the row has more than " + std::to_string(kMostCells) + " cells");
    }
}

std::string_view DelimitedCells::cell(std::size_t i) const {
    const std::size_t begin = i == 0 ? 0 : ends_[i - 1];
    return text_.text().substr(begin, ends_[i] - begin);
}

bool DelimitedCells::is_blank() const {
    return count_ == 1 && fault_.empty() && !any_quote_ &&
           text().find_first_not_of(" \t") == std::string_view::npos;
}

/// The part of a cell up to the next quote; a quote that may end the cell is taken too.
std::size_t DelimitedCells::consume_quoted(std::string_view piece) {
    const std::size_t quote = std::min(piece.find('"'), piece.size());
    const std::string_view inside = piece.substr(0, quote);
    line_ += std::count(inside.begin(), inside.end(), '\n');
    text_.append(inside);
    if (quote == piece.size()) return quote;
    place_ = Place::kQuoteSeen;
    return quote + 1;
}

std::size_t DelimitedCells::consume(std::string_view piece, bool& complete) {
    const char ends[] = {separator_, '\r', '\n', '\0'};
    std::size_t at = 0;
    while (at < piece.size()) {
        const char c = piece[at];
        if (place_ == Place::kQuoted) {
            at += consume_quoted(piece.substr(at));
        } else if (c == separator_) {
            end_cell();
            ++at;
        } else if (c == '\r' || c == '\n') {
            end_cell();
            ++line_;
            after_cr_ = c == '\r';
            complete = true;
            return at + 1;
        } else if (c == '"' && place_ == Place::kCellBegin) {
            place_ = Place::kQuoted;
            any_quote_ = true;
            quote_line_ = line_;
            ++at;
        } else if (c == '"' && place_ == Place::kQuoteSeen) {  // doubled: the quote itself
            place_ = Place::kQuoted;
            text_.append("\"");
            ++at;
        } else {
            if (place_ == Place::kQuoteSeen)
                refuse("text follows the closing quote of cell " + std::to_string(count_ + 1) +
                       "; a quote inside a quoted cell is written twice");
            place_ = Place::kPlain;
            const std::size_t size = std::min(piece.substr(at).find_first_of(ends), piece.size() - at);
            text_.append(piece.substr(at, size));
            at += size;
        }
    }
    return at;
}

bool DelimitedCells::read() {
    text_.clear();
    ends_.clear();
    fault_.clear();
    count_ = 0;
    any_quote_ = false;
    place_ = Place::kCellBegin;
    std::string_view piece = bytes_->peek();
    if (after_cr_ && piece.starts_with('\n')) bytes_->skip(1);
    after_cr_ = false;
    begin_ = line_;
    bool any = false, complete = false;
    while (!complete) {
        piece = bytes_->peek();
        if (piece.empty() && !any) return false;
        any = true;
        if (piece.empty()) {
            if (place_ == Place::kQuoted)
                refuse("the quote that opens a cell in line " + std::to_string(quote_line_) +
                       " is never closed");
            end_cell();
            break;
        }
        bytes_->skip(consume(piece, complete));
    }
    refuse(text_.fault());
    return true;
}

}  // namespace qlora::data
