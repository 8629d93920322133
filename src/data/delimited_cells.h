#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "byte_reader.h"
#include "row_text.h"

namespace qlora::data {

/// Cuts a table of text into records of cells, as RFC 4180 has it: a cell in double quotes may hold
/// separators, line ends and doubled quotes; a quote inside a cell without them stands for itself. Records
/// end in LF, CRLF or CR, the last one perhaps in nothing. Memory is bounded by the longest row that is not
/// refused.
class DelimitedCells {
  public:
    DelimitedCells(std::unique_ptr<ByteReader> bytes, char separator)
        : bytes_(std::move(bytes)), separator_(separator) {}

    /// Reads the next record; false at the end of the file.
    bool read();

    /// Cells of the record, also those that are no longer held because there are far too many.
    std::size_t count() const { return count_; }
    /// `i` below `count()`, where `fault()` is empty.
    std::string_view cell(std::size_t i) const;
    /// The record is a line of white space.
    bool is_blank() const;
    /// Not empty: the record cannot be read; `text()` is the beginning of its cells.
    const std::string& fault() const { return fault_; }
    std::string_view text() const { return text_.text(); }
    /// 1-based line where the record begins.
    std::int64_t line() const { return begin_; }

  private:
    enum class Place { kCellBegin, kPlain, kQuoted, kQuoteSeen };

    std::size_t consume(std::string_view piece, bool& complete);
    std::size_t consume_quoted(std::string_view piece);
    void end_cell();
    void refuse(const std::string& fault);

    std::unique_ptr<ByteReader> bytes_;
    char separator_;
    RowText text_;  // of the cells, one behind the other
    std::vector<std::size_t> ends_;
    std::size_t count_ = 0;
    std::string fault_;
    Place place_ = Place::kCellBegin;
    bool any_quote_ = false;
    bool after_cr_ = false;        // a CR ended the last record: an LF belongs to it
    std::int64_t line_ = 1;        // of the next byte
    std::int64_t begin_ = 1;       // of the record
    std::int64_t quote_line_ = 1;  // of the last quote that opened a cell
};

}  // namespace qlora::data
