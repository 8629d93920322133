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
    std::int64_t number = 0;    ///< 0-based place in the data, files taken in order (set by their reader)
    std::int64_t line = 0;      ///< 1-based line where the row begins
    std::int64_t element = -1;  ///< 0-based place in the array, -1 where rows are lines
    std::string fault;          ///< not empty: the row cannot be read; `text` is its beginning
};

/// Streams the rows of a file; memory is bounded by the longest row that is not refused. `read()` rather than
/// a mapping, because a mapped file that another process cuts would end the program with SIGBUS.
class RowSource {
  public:
    virtual ~RowSource() = default;
    virtual bool next(RawRow& row) = 0;
};

/// The rows of a file named .jsonl or .json: the elements of one array, or an object a line. The first 64 KiB
/// tell which of the two, and the name only where they do not. A byte order mark may begin the file. All
/// bytes read go into `hash` too. DataError when the file cannot be opened or read, is a Git LFS pointer or
/// holds neither.
std::unique_ptr<RowSource> open_rows(const std::filesystem::path& file, Xxh3& hash);

}  // namespace qlora::data
