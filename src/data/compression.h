#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "byte_reader.h"

namespace qlora::data {

enum class Compression { kNone, kGzip, kZstd };

/// Told by the first bytes.
Compression compression_of(std::string_view beginning);

/// What the bytes decompress to, of all members or frames one after another, in bounded memory: a zstd window
/// of more than 128 MiB is refused. Bytes that are damaged, cut, or followed by others are a DataError with
/// `file` before the reason. kZstd without libzstd in the build is one too.
std::unique_ptr<ByteStream> decompress(Compression compression, const std::filesystem::path& file,
                                       std::unique_ptr<ByteReader> bytes);

/// The two forms of it; each has a file.
std::unique_ptr<ByteStream> decompress_gzip(const std::filesystem::path& file,
                                            std::unique_ptr<ByteReader> bytes);
std::unique_ptr<ByteStream> decompress_zstd(const std::filesystem::path& file,
                                            std::unique_ptr<ByteReader> bytes);

}  // namespace qlora::data
