#include "row_text.h"

#include <algorithm>

namespace qlora::data {
namespace {

// Of a refused row, for the file of rejected rows.
constexpr std::size_t kKeptBytes = 4096;

}  // namespace

std::string fault_of_piece(std::string_view piece, std::size_t bytes_before) {
    const std::size_t nul = piece.find('\0');
    if (nul != std::string_view::npos) {
        return "a NUL byte at byte " + std::to_string(bytes_before + nul + 1) +
               " of the row: this is not text";
    }
    if (bytes_before + piece.size() > kMaxRowBytes) {
        return "the row is longer than " + std::to_string(kMaxRowBytes >> 20) + " MiB";
    }
    return {};
}

void RowText::clear() {
    text_.clear();
    fault_.clear();
    // A huge row must not hold its memory for the rest of the file.
    constexpr std::size_t kKeptCapacity = std::size_t{4} << 20;
    if (text_.capacity() > kKeptCapacity) text_.shrink_to_fit();
}

void RowText::append(std::string_view piece) {
    if (!fault_.empty()) return;
    const std::string fault = fault_of_piece(piece, text_.size());
    if (fault.empty()) {
        text_ += piece;
    } else {
        text_ += piece.substr(0, kKeptBytes);
        refuse(fault);
    }
}

void RowText::refuse(const std::string& fault) {
    fault_ = fault;
    text_.resize(std::min(text_.size(), kKeptBytes));
    text_.shrink_to_fit();
}

}  // namespace qlora::data
