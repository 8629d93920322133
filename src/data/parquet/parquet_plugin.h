#pragma once

#include "../row_source.h"

namespace qlora::data {

/// Reading Parquet takes the Arrow library, 60 MB that other runs need not load, so it is a library of its
/// own, which is loaded when a Parquet file is met.
inline constexpr const char* kParquetLibrary = "libqlora_parquet.so";

/// What it exports: the rows of `file`, to be deleted by the caller, as JSON objects; null values are left
/// out. DataError, then and at each row, where the file is damaged.
inline constexpr const char* kOpenParquetSymbol = "qlora_open_parquet";
using OpenParquet = RowSource* (*)(const char* file);

}  // namespace qlora::data
