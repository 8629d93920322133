#pragma once

#include <filesystem>
#include <memory>

#include "byte_reader.h"
#include "row_source.h"

namespace qlora::data {

/// The rows of a Parquet file, whose lines are the row's numbers. `bytes` is the whole file; all of it goes
/// into `hash`. DataError when it is cut or damaged, is no file on a disk, or the build has no Arrow.
std::unique_ptr<RowSource> open_parquet(const std::filesystem::path& file, ByteReader& bytes, Xxh3& hash,
                                        const ColumnNames& columns);

}  // namespace qlora::data
