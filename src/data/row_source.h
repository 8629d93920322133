#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "qlora/core/hash.h"

namespace qlora::data {

/// A longer row is refused unread: it bounds the memory of reading.
inline constexpr std::size_t kMaxRowBytes = std::size_t{64} << 20;

/// The text of one row as it stands in the file, before it is parsed.
struct RawRow {
    std::string_view text;      ///< valid until the next row is read
    std::int64_t line = 0;      ///< 1-based line where the row begins
    std::int64_t element = -1;  ///< 0-based place in the array of a .json file
    std::string fault;          ///< not empty: the row cannot be read; `text` is its beginning
};

/// Streams the rows of a file; memory is bounded by the longest row that is not refused. `read()` rather than
/// a mapping, because a mapped file that another process cuts would end the program with SIGBUS.
class RowSource {
  public:
    virtual ~RowSource() = default;
    virtual bool next(RawRow& row) = 0;
};

/// By the name: .jsonl holds a record a line, .json an array of records. All bytes read go into `hash` too.
/// Throws DataError when the file cannot be opened or read.
std::unique_ptr<RowSource> open_rows(const std::filesystem::path& file, Xxh3& hash);

}  // namespace qlora::data
