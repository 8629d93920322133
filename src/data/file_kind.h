#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace qlora::data {

/// How a file holds its rows.
enum class FileKind { kJsonLines, kJsonArray, kCommas, kTabs, kParquet };

/// The kind that the file's name promises, endings of compression (.gz, .zst) left aside; none for other
/// names. .json promises an array.
std::optional<FileKind> kind_by_name(const std::filesystem::path& file);

/// The kind by the first bytes of the file (64 KiB, or all of it; decompressed and without a byte order
/// mark), where they tell, else the promised one. A file that is named .csv or .tsv and begins with a JSON
/// object or list of them is JSON, and one named .json or .jsonl is lines or an array as it begins.
FileKind kind_by_beginning(std::string_view beginning, FileKind promised);

/// What to say of a file that is no data file, but something known by its first bytes: a Git LFS pointer, a
/// web page, a zip archive. Empty for any other.
std::string fault_of_beginning(std::string_view beginning);

/// The first bytes of every Parquet file.
inline constexpr std::string_view kParquetMagic = "PAR1";
/// Of those whose table of contents is encrypted; a table of text may begin so too.
inline constexpr std::string_view kEncryptedParquetMagic = "PARE";

/// ".jsonl, .json, ...", for messages.
inline constexpr const char* kDataFileEndings =
    ".jsonl (a record a line), .json (a list of records), .csv, .tsv or .parquet, the first four perhaps "
    "with .gz "
    "or .zst behind";

}  // namespace qlora::data
