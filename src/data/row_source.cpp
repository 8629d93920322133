#include "row_source.h"

#include <algorithm>
#include <utility>

#include "json_array.h"
#include "json_lines.h"
#include "json_value_end.h"
#include "qlora/core/error.h"
#include "qlora/core/lfs_pointer.h"
#include "qlora/core/utf8.h"

namespace qlora::data {
namespace {

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

/// Whether rows are the elements of one array rather than lines, as far as the first bytes of a file tell.
bool holds_array(std::string_view beginning, bool is_named_array) {
    beginning.remove_prefix(std::min(beginning.find_first_not_of(kJsonBlanks), beginning.size()));
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

}  // namespace

std::unique_ptr<RowSource> open_rows(const std::filesystem::path& file, Xxh3& hash) {
    if (std::filesystem::is_directory(file))
        throw DataError(file.string() + ": is a folder, not a data file");
    const bool is_named_array = file.extension() == ".json";
    if (!is_named_array && file.extension() != ".jsonl") {
        throw DataError(file.string() +
                        ": the name must end in .jsonl (a record a line) or .json (a list of records)");
    }
    auto bytes = std::make_unique<ByteReader>(file, hash);
    const std::string fault = fault_of_lfs_pointer(bytes->peek());
    if (!fault.empty()) throw DataError(file.string() + ": " + fault);
    if (bytes->peek().starts_with(kByteOrderMark)) bytes->skip(kByteOrderMark.size());
    if (holds_array(bytes->peek(), is_named_array))
        return std::make_unique<JsonArray>(file, std::move(bytes));
    return std::make_unique<JsonLines>(std::move(bytes));
}

}  // namespace qlora::data
