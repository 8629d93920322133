#include "file_kind.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "json_value_end.h"
#include "qlora/core/lfs_pointer.h"

namespace qlora::data {
namespace {

constexpr std::array<std::pair<std::string_view, FileKind>, 5> kEndings = {{
    {".jsonl", FileKind::kJsonLines},
    {".json", FileKind::kJsonArray},
    {".csv", FileKind::kCommas},
    {".tsv", FileKind::kTabs},
    {".parquet", FileKind::kParquet},
}};

struct Impostor {
    std::string_view beginning;  // in small letters
    const char* fault;
};

constexpr const char* kWebPage =
    "is a web page, not the data: the server answered with a page (of a login or an error, often); download "
    "the "
    "file itself";
constexpr const char* kUtf16 = "is UTF-16 text; save it as UTF-8";

constexpr Impostor kImpostors[] = {
    {"<!doctype html", kWebPage},
    {"<html", kWebPage},
    {"<?xml", "is an XML document; save the rows as JSON lines, CSV or Parquet"},
    {"pk\x03\x04", "is a zip archive (an .xlsx table is one too); unpack it, or save the table as CSV"},
    {"bzh91ay&sy", "is compressed by bzip2; decompress it, or compress it with gzip or zstd"},
    {"\xfd"
     "7zxz",
     "is compressed by xz; decompress it, or compress it with gzip or zstd"},
    {"\xff\xfe", kUtf16},
    {"\xfe\xff", kUtf16},
    {std::string_view("arrow1\0\0", 8),
     "is an Arrow file; save the data set as Parquet (to_parquet of datasets)"},
    {"\xff\xff\xff\xff",
     "is an Arrow stream, as save_to_disk of datasets writes it; save the data set as Parquet (to_parquet)"},
    {"sqlite format 3", "is an SQLite database; save the table as CSV"},
    {"\x89hdf", "is an HDF5 file; save the rows as JSON lines, CSV or Parquet"},
};

char small(char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

std::string small(std::string_view text) {
    std::string out(text);
    std::transform(out.begin(), out.end(), out.begin(), [](char c) { return small(c); });
    return out;
}

std::string_view without_blanks(std::string_view text) {
    text.remove_prefix(std::min(text.find_first_not_of(kJsonBlanks), text.size()));
    return text;
}

/// Two characters of ASCII, as they begin any of our files, in two bytes each.
bool is_utf16_without_mark(std::string_view beginning) {
    const auto is_pair = [&](std::size_t zero) {
        return beginning[zero] == '\0' && beginning[zero + 2] == '\0' && beginning[1 - zero] != '\0' &&
               beginning[3 - zero] != '\0';
    };
    return beginning.size() >= 4 && (is_pair(0) || is_pair(1));
}

/// Whether the first line is a list that was cut off, and not the first line of an array: a row stands below
/// it.
bool is_cut_line(std::string_view beginning) {
    const std::size_t line_end = beginning.find('\n');
    if (line_end == std::string_view::npos) return false;
    const std::string_view line = beginning.substr(0, line_end), below = beginning.substr(line_end);
    const char last = line[line.find_last_not_of(kJsonBlanks)];  // at least the bracket is there
    const std::size_t next = below.find_first_not_of(kJsonBlanks);
    return last != '[' && last != ',' && next != std::string_view::npos && below[next] == '{';
}

/// Whether JSON rows are the elements of one array rather than lines, as far as the first bytes tell.
bool holds_array(std::string_view beginning, bool is_named_array) {
    beginning = without_blanks(beginning);
    if (!beginning.starts_with('[') && !beginning.starts_with('{')) return is_named_array;
    JsonValueEnd end;
    bool complete = false;
    const std::string_view value = beginning.substr(0, end.consume(beginning, complete));
    const std::string_view behind = beginning.substr(value.size());
    // Lists on lines of their own are bad rows, each of them, and not one damaged array.
    if (value.starts_with('['))
        return is_named_array || (!complete && !is_cut_line(beginning)) ||
               (complete && behind.find_first_not_of(kJsonBlanks) == std::string_view::npos);
    return is_named_array && value.find('\n') != std::string_view::npos;
}

/// An object, or a list of objects: no header of a table begins so.
bool begins_like_json(std::string_view beginning) {
    beginning = without_blanks(beginning);
    const char first = beginning.empty() ? '\0' : beginning[0];
    if (first != '{' && first != '[') return false;
    const std::string_view inside = without_blanks(beginning.substr(1));
    return !inside.empty() && (first == '{' ? inside[0] == '"' : inside[0] == '{');
}

}  // namespace

std::optional<FileKind> kind_by_name(const std::filesystem::path& file) {
    std::filesystem::path name = file.filename();
    const std::string last = small(name.extension().string());
    if (last == ".gz" || last == ".zst") name = name.stem();
    const std::string ending = small(name.extension().string());
    for (const auto& [known, kind] : kEndings) {
        if (ending == known) return kind;
    }
    return std::nullopt;
}

FileKind kind_by_beginning(std::string_view beginning, FileKind promised) {
    if (beginning.starts_with(kParquetMagic)) return FileKind::kParquet;
    const bool is_named_json = promised == FileKind::kJsonLines || promised == FileKind::kJsonArray;
    if (!is_named_json && !begins_like_json(beginning)) return promised;
    return holds_array(beginning, promised == FileKind::kJsonArray) ? FileKind::kJsonArray
                                                                    : FileKind::kJsonLines;
}

std::string fault_of_beginning(std::string_view beginning) {
    std::string fault = fault_of_lfs_pointer(beginning);
    if (!fault.empty()) return fault;
    const std::string start = small(without_blanks(beginning.substr(0, 1024)).substr(0, 16));
    for (const Impostor& impostor : kImpostors) {
        if (start.starts_with(impostor.beginning)) return impostor.fault;
    }
    if (is_utf16_without_mark(beginning)) return kUtf16;
    return {};
}

}  // namespace qlora::data
