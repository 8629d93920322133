#pragma once

#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

#include "data/row_source.h"
#include "qlora/core/error.h"
#include "support/temp_dir.h"

namespace qlora::data::test {

/// A row as a file gives it.
struct SourceRow {
    std::string text;
    std::int64_t line;
    std::int64_t element;  // -1: the row is no element of an array
    std::string fault;
    bool operator==(const SourceRow&) const = default;
};

inline std::ostream& operator<<(std::ostream& out, const SourceRow& row) {
    return out << row.line << " (" << row.element << "): " << row.text.substr(0, 100) << " [" << row.fault
               << "]";
}

using SourceRows = std::vector<SourceRow>;

inline SourceRows rows_of_file(const std::filesystem::path& file, std::string* hash_of_file = nullptr) {
    Xxh3 hash;
    const auto source = open_rows(file, hash);
    SourceRows rows;
    for (RawRow raw; source->next(raw);)
        rows.push_back({std::string(raw.text), raw.line, raw.element, raw.fault});
    if (hash_of_file != nullptr) *hash_of_file = hash.hex();
    return rows;
}

inline SourceRows rows_of_file(const std::string& name, const std::string& bytes,
                               std::string* hash_of_file = nullptr) {
    const qlora::test::TempDir folder;
    qlora::test::write_file(folder / name, bytes);
    return rows_of_file(folder / name, hash_of_file);
}

/// What is said of a file that cannot be read, or nothing.
inline std::string refusal(const std::string& name, const std::string& bytes) {
    try {
        rows_of_file(name, bytes);
    } catch (const DataError& error) {
        return error.what();
    }
    return {};
}

}  // namespace qlora::data::test
