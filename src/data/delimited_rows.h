#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "delimited_cells.h"
#include "row_source.h"

namespace qlora::data {

/// The rows of a table of text, as JSON objects. Its first row names the fields; a cell without text is an
/// absent field; see `append_cell` for what a cell may hold. A row with more or fewer cells than the first is
/// bad.
class DelimitedRows final : public RowSource {
  public:
    /// The separator is `usual` unless the header holds none of it outside quotes and another of comma,
    /// semicolon and tab. DataError with `file`:line for a header that names a field twice, not at all, or in
    /// bytes that are no UTF-8.
    /// `columns`: see message_columns.
    DelimitedRows(const std::filesystem::path& file, std::unique_ptr<ByteReader> bytes, char usual,
                  const ColumnNames& columns);
    bool next(RawRow& row) override;

  private:
    void read_header(const std::filesystem::path& file, const ColumnNames& columns);
    std::string make_row();
    bool repeats_header() const;

    DelimitedCells cells_;
    std::vector<std::string> names_;
    std::vector<bool> are_message_columns_;
    std::string text_;
};

}  // namespace qlora::data
