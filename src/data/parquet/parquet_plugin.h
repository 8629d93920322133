#pragma once

#include <string>
#include <vector>

#include "../row_source.h"

namespace qlora::data {

/// Reading Parquet takes the Arrow library, 60 MB that other runs need not load, so it is a library of its
/// own, which is loaded when a Parquet file is met.
inline constexpr const char* kParquetLibrary = "libqlora_parquet.so";

/// What it exports: the rows of `file`, to be deleted by the caller, as JSON objects (see append_row in
/// arrow_json.h). DataError, then and at each row, where the file is damaged.
inline constexpr const char* kOpenParquetSymbol = "qlora_open_parquet";
using OpenParquet = RowSource* (*)(const char* file, const std::vector<std::string>& message_columns);

}  // namespace qlora::data
