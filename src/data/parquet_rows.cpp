#include "parquet_rows.h"

#include <dlfcn.h>

#include <algorithm>
#include <string>

#include "file_kind.h"
#include "message_columns.h"
#include "parquet/parquet_plugin.h"
#include "qlora/core/error.h"

namespace qlora::data {
namespace {

/// Hashes all bytes; says whether they end as a Parquet file does, in the magic that it begins with too.
bool drain_to_magic(ByteReader& bytes, Xxh3& hash) {
    constexpr std::size_t kLeastBytes = 12;  // both, and the length of the table of contents
    bytes.hash_into(hash);
    std::string tail;
    std::size_t size = 0;
    for (std::string_view piece = bytes.peek(); !piece.empty(); piece = bytes.peek()) {
        size += piece.size();
        tail += piece.substr(piece.size() - std::min(piece.size(), kParquetMagic.size()));
        tail.erase(0, tail.size() - std::min(tail.size(), kParquetMagic.size()));
        bytes.skip(piece.size());
    }
    return size >= kLeastBytes && tail == kParquetMagic;
}

OpenParquet load_parquet_library(const std::filesystem::path& file) {
    // Never closed: rows and errors of it may live as long as the program.
    static void* const library = dlopen(kParquetLibrary, RTLD_NOW | RTLD_LOCAL);
    void* const function = library == nullptr ? nullptr : dlsym(library, kOpenParquetSymbol);
    if (function != nullptr) return reinterpret_cast<OpenParquet>(function);
    const char* reason = dlerror();
    throw DataError(file.string() +
                    ": is a Parquet file, and the library that reads them cannot be loaded (" +
                    (reason != nullptr ? reason : kParquetLibrary) +
                    "); run scripts/setup.sh and build again, or save the rows as JSON lines");
}

}  // namespace

std::unique_ptr<RowSource> open_parquet(const std::filesystem::path& file, ByteReader& bytes, Xxh3& hash,
                                        const ColumnNames& columns) {
    if (!std::filesystem::is_regular_file(file))
        throw DataError(file.string() +
                        ": holds Parquet, which cannot be read from a pipe; save it to a file first");
    if (!drain_to_magic(bytes, hash))
        throw DataError(file.string() +
                        ": the Parquet file does not end as one does (PAR1); it seems to be cut: download or "
                        "copy it again");
    return std::unique_ptr<RowSource>(load_parquet_library(file)(file.c_str(), message_columns(columns)));
}

}  // namespace qlora::data
