#pragma once

#include <string>
#include <string_view>

#include "row_source.h"

namespace qlora::data {

/// Gathers the text of one row from pieces of a file. Once the row is known to be bad, only its beginning is
/// kept.
class RowText {
  public:
    void clear();
    void append(std::string_view piece);
    std::string_view text() const { return text_; }
    /// Empty, or why the row cannot be read.
    const std::string& fault() const { return fault_; }

  private:
    void refuse(const std::string& fault);

    std::string text_;
    std::string fault_;
};

/// Why a row must not be parsed (NUL bytes, too long), or empty.
std::string fault_of_piece(std::string_view piece, std::size_t bytes_before);

}  // namespace qlora::data
