#include "delimited_rows.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "json_cell.h"
#include "message_columns.h"
#include "qlora/core/error.h"
#include "qlora/core/utf8.h"

namespace qlora::data {
namespace {

/// The first line that is not blank, without what stands in quotes.
std::string unquoted_header(std::string_view beginning) {
    std::string out;
    bool is_quoted = false;
    for (const char c : beginning) {
        if (c == '"') is_quoted = !is_quoted;
        if (!is_quoted && (c == '\n' || c == '\r')) {
            if (out.find_first_not_of(" \t") != std::string::npos) break;
            out.clear();
            continue;
        }
        if (!is_quoted) out += c;
    }
    return out;
}

char separator_of(std::string_view beginning, char usual) {
    const std::string header = unquoted_header(beginning);
    if (header.find(usual) != std::string::npos) return usual;
    for (const char other : {',', ';', '\t'}) {
        if (header.find(other) != std::string::npos) return other;
    }
    return usual;
}

std::string cells_text(std::size_t count) {
    return std::to_string(count) + (count == 1 ? " cell" : " cells");
}

}  // namespace

DelimitedRows::DelimitedRows(const std::filesystem::path& file, std::unique_ptr<ByteReader> bytes, char usual,
                             const ColumnNames& columns)
    : cells_([&] {
          const char separator = separator_of(bytes->peek(), usual);
          return DelimitedCells(std::move(bytes), separator);
      }()) {
    read_header(file, columns);
}

void DelimitedRows::read_header(const std::filesystem::path& file, const ColumnNames& columns) {
    const std::vector<std::string> of_messages = message_columns(columns);
    while (cells_.read()) {
        if (cells_.is_blank()) continue;
        const auto fail = [&](const std::string& reason) {
            throw DataError(file.string() + ":" + std::to_string(cells_.line()) + ": " + reason);
        };
        if (!cells_.fault().empty()) fail("the header: " + cells_.fault());
        if (cells_.cell(0).starts_with("sep="))
            fail("the line \"sep=\" tells Excel the separator and is no header; take it out");
        std::string faults;
        std::unordered_set<std::string_view> seen;
        for (std::size_t i = 0; i < cells_.count(); ++i) {
            const std::string name(cells_.cell(i));
            const std::string column = "column " + std::to_string(i + 1);
            std::string fault;
            if (name.empty()) {
                fault =
                    column + " of the header has no name" +
                    (i == 0 ? " (to_csv of pandas writes such a column of numbers unless index=False)" : "");
            } else if (find_invalid_utf8(name) != std::string_view::npos) {
                fault = column + " of the header is not UTF-8; save the file as UTF-8";
            } else if (!seen.insert(cells_.cell(i)).second) {
                fault = "the header names \"" + name + "\" twice";
            }
            if (!fault.empty()) faults += (faults.empty() ? "" : "; ") + fault;
            names_.push_back(name);
            are_message_columns_.push_back(std::find(of_messages.begin(), of_messages.end(), name) !=
                                           of_messages.end());
        }
        if (!faults.empty()) fail(faults);
        return;
    }
}

bool DelimitedRows::repeats_header() const {
    for (std::size_t i = 0; i < names_.size(); ++i) {
        if (cells_.cell(i) != names_[i]) return false;
    }
    return true;
}

/// Fills text_ with the row as JSON; returns why there is none, or nothing.
std::string DelimitedRows::make_row() {
    text_.clear();
    if (!cells_.fault().empty()) return cells_.fault();
    if (cells_.count() != names_.size())
        return cells_text(cells_.count()) + ", but the header has " + std::to_string(names_.size());
    if (repeats_header()) return "the row repeats the header, as where files are put together; take it out";
    text_ += '{';
    for (std::size_t i = 0; i < names_.size(); ++i) {
        const std::string_view cell = cells_.cell(i);
        if (cell.empty()) continue;
        if (const std::size_t bad = find_invalid_utf8(cell); bad != std::string_view::npos)
            return "byte " + std::to_string(bad + 1) + " of the cell of \"" + names_[i] +
                   "\" is not UTF-8; save the file as UTF-8";
        if (text_.size() > 1) text_ += ", ";
        append_json_string(text_, names_[i]);
        text_ += ": ";
        append_cell(text_, are_message_columns_[i], cell);
    }
    text_ += '}';
    return {};
}

bool DelimitedRows::next(RawRow& row) {
    while (cells_.read()) {
        if (cells_.is_blank()) continue;
        row.fault = make_row();
        row.text = row.fault.empty() ? std::string_view(text_) : cells_.text();
        row.line = cells_.line();
        row.element = -1;
        return true;
    }
    return false;
}

}  // namespace qlora::data
