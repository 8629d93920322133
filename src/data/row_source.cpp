#include "row_source.h"

#include "json_array.h"
#include "json_lines.h"
#include "qlora/core/error.h"

namespace qlora::data {

std::unique_ptr<RowSource> open_rows(const std::filesystem::path& file, Xxh3& hash) {
    if (std::filesystem::is_directory(file))
        throw DataError(file.string() + ": is a folder, not a data file");
    if (file.extension() == ".jsonl") return std::make_unique<JsonLines>(file, hash);
    if (file.extension() == ".json") return std::make_unique<JsonArray>(file, hash);
    throw DataError(file.string() +
                    ": the name must end in .jsonl (a record a line) or .json (a list of records)");
}

}  // namespace qlora::data
