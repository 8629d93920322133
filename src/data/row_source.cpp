#include "row_source.h"

#include <optional>
#include <utility>

#include "compression.h"
#include "delimited_rows.h"
#include "file_kind.h"
#include "json_array.h"
#include "json_lines.h"
#include "parquet_rows.h"
#include "qlora/core/error.h"
#include "qlora/core/utf8.h"

namespace qlora::data {
namespace {

void refuse_other_files(const std::filesystem::path& file, std::string_view beginning) {
    const std::string fault = fault_of_beginning(beginning);
    if (!fault.empty()) throw DataError(file.string() + ": " + fault);
}

std::unique_ptr<ByteReader> decompressed(const std::filesystem::path& file, Compression compression,
                                         std::unique_ptr<ByteReader> bytes) {
    auto inner = std::make_unique<ByteReader>(decompress(compression, file, std::move(bytes)));
    if (compression_of(inner->peek()) != Compression::kNone)
        throw DataError(file.string() + ": is compressed twice; decompress it once");
    if (inner->peek().starts_with(kParquetMagic))
        throw DataError(file.string() +
                        ": holds a compressed Parquet file, of which parts cannot be read; decompress it");
    refuse_other_files(file, inner->peek());
    return inner;
}

}  // namespace

std::unique_ptr<RowSource> open_rows(const std::filesystem::path& file, Xxh3& hash,
                                     const ColumnNames& columns) {
    if (std::filesystem::is_directory(file))
        throw DataError(file.string() + ": is a folder, not a data file");
    auto bytes = std::make_unique<ByteReader>(open_bytes(file));
    refuse_other_files(file, bytes->peek());
    // Its magic is sure; the name may be a hash, as in a cache of downloads.
    if (bytes->peek().starts_with(kParquetMagic)) return open_parquet(file, *bytes, hash, columns);
    const std::optional<FileKind> promised = kind_by_name(file);
    if (!promised) throw DataError(file.string() + ": the name must end in " + kDataFileEndings);
    const Compression compression = compression_of(bytes->peek());
    if (compression != Compression::kNone) bytes = decompressed(file, compression, std::move(bytes));
    bytes->hash_into(hash);
    if (bytes->peek().starts_with(kByteOrderMark)) bytes->skip(kByteOrderMark.size());
    switch (kind_by_beginning(bytes->peek(), *promised)) {
        case FileKind::kJsonArray:
            return std::make_unique<JsonArray>(file, std::move(bytes));
        case FileKind::kJsonLines:
            return std::make_unique<JsonLines>(std::move(bytes));
        case FileKind::kCommas:
            return std::make_unique<DelimitedRows>(file, std::move(bytes), ',', columns);
        case FileKind::kTabs:
            return std::make_unique<DelimitedRows>(file, std::move(bytes), '\t', columns);
        case FileKind::kParquet:
            break;
    }
    if (bytes->peek().starts_with(kEncryptedParquetMagic))
        throw DataError(file.string() + ": is an encrypted Parquet file; save it without encryption");
    throw DataError(file.string() + ": is named as a Parquet file, but does not begin as one does (PAR1)");
}

}  // namespace qlora::data
