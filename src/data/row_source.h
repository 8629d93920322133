#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "qlora/core/hash.h"
#include "qlora/data/data_config.h"

namespace qlora::data {

/// A longer row is refused unread: it bounds the memory of reading.
inline constexpr std::size_t kMaxRowBytes = std::size_t{64} << 20;

/// The text of one row before it is parsed: as it stands in a JSON file, or the JSON object that a row of a
/// table is.
struct RawRow {
    std::string_view text;      ///< valid until the next row is read
    std::int64_t number = 0;    ///< 0-based place in the data, files taken in order (set by their reader)
    std::int64_t line = 0;      ///< 1-based line where the row begins; of Parquet the 1-based row
    std::int64_t element = -1;  ///< 0-based place in the array, -1 where rows are lines
    std::string fault;          ///< not empty: the row cannot be read; `text` is its beginning
};

/// Streams the rows of a file; memory is bounded by the longest row that is not refused.
class RowSource {
  public:
    virtual ~RowSource() = default;
    virtual bool next(RawRow& row) = 0;
};

/// The rows of a data file: of an array or a line each (.jsonl, .json), of a table of text (.csv, .tsv) or of
/// Parquet. The first 64 KiB tell which, and the name only where they do not; so gzip and zstd too. A byte
/// order mark may begin the text. Into `hash` go all bytes of the text, decompressed, or of the Parquet file.
/// DataError when the file cannot be opened or read, is a Git LFS pointer or a web page, or holds none of
/// these.
/// `columns`: what `data.columns` says, for the cells of tables (see message_columns).
std::unique_ptr<RowSource> open_rows(const std::filesystem::path& file, Xxh3& hash,
                                     const ColumnNames& columns = {});

}  // namespace qlora::data
