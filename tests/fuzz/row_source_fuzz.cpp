// libFuzzer target for cutting files into rows. The first byte chooses .json or .jsonl. Beyond not crashing:
// the hash covers every byte, lines rise, and a valid array of records comes out whole, element by element,
// whatever the name.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#include "data/row_source.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"

namespace {

using namespace qlora;
using namespace qlora::data;

std::optional<Json> parse(std::string_view text) {
    try {
        return parse_json(text, "");
    } catch (const ConfigError&) {
        return std::nullopt;
    }
}

void expect(bool holds) {
    if (!holds) std::abort();
}

void check(std::string_view bytes, bool is_named_array) {
    static const std::string stem =
        (std::filesystem::temp_directory_path() / ("row-source-fuzz-" + std::to_string(::getpid()))).string();
    const std::string file = stem + (is_named_array ? ".json" : ".jsonl");
    std::ofstream(file, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));

    const std::optional<Json> whole = parse(bytes);
    Xxh3 hash;
    const auto source = open_rows(file, hash);
    std::size_t rows = 0;
    std::int64_t line = 1;
    for (RawRow row; source->next(row); ++rows) {
        expect(row.line >= line);
        line = row.line;
        if (whole && whole->is_array()) {
            expect(row.fault.empty() && rows < whole->size());
            const std::optional<Json> element = parse(row.text);
            expect(element && *element == (*whole)[rows]);
        }
    }
    if (whole && whole->is_array()) expect(rows == whole->size());
    Xxh3 expected;
    expected.update(bytes);
    expect(hash.hex() == expected.hex());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    try {
        check({reinterpret_cast<const char*>(data) + 1, size - 1}, data[0] % 2 == 0);
    } catch (const DataError&) {
    }
    return 0;
}
