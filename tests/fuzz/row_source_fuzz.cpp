// libFuzzer target for cutting files into rows. The first byte chooses the name, and perhaps compresses the
// rest. Beyond not crashing: the hash covers every byte of the text, lines rise, and of JSON files a valid
// array of records comes out whole, element by element, whatever the name.
#include <unistd.h>
#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#include "data/compression.h"
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

std::string gzip(std::string_view text) {
    z_stream state{};
    expect(deflateInit2(&state, 1, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    std::string out(deflateBound(&state, text.size()), '\0');
    state.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
    state.avail_in = static_cast<uInt>(text.size());
    state.next_out = reinterpret_cast<Bytef*>(out.data());
    state.avail_out = static_cast<uInt>(out.size());
    expect(deflate(&state, Z_FINISH) == Z_STREAM_END);
    out.resize(state.total_out);
    deflateEnd(&state);
    return out;
}

void check(std::string_view bytes, const std::string& ending, bool compresses) {
    static const std::string stem =
        (std::filesystem::temp_directory_path() / ("row-source-fuzz-" + std::to_string(::getpid()))).string();
    const std::string file = stem + ending;
    const std::string stored = compresses ? gzip(bytes) : std::string(bytes);
    std::ofstream(file, std::ios::binary).write(stored.data(), static_cast<std::streamsize>(stored.size()));

    const bool is_table = ending != ".json" && ending != ".jsonl";
    const std::optional<Json> whole = parse(bytes);
    Xxh3 hash;
    const auto source = open_rows(file, hash);
    std::size_t rows = 0;
    std::int64_t line = 1;
    for (RawRow row; source->next(row); ++rows) {
        expect(row.line >= line);
        line = row.line;
        if (is_table) continue;
        if (whole && whole->is_array()) {
            expect(row.fault.empty() && rows < whole->size());
            const std::optional<Json> element = parse(row.text);
            expect(element && *element == (*whole)[rows]);
        }
    }
    if (whole && whole->is_array() && !is_table) expect(rows == whole->size());
    Xxh3 expected;
    expected.update(bytes);
    if (compression_of(bytes) == Compression::kNone) expect(hash.hex() == expected.hex());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    try {
        const char* const endings[] = {".json", ".jsonl", ".csv", ".tsv"};
        check({reinterpret_cast<const char*>(data) + 1, size - 1}, endings[data[0] % 4],
              data[0] / 4 % 4 == 3);
    } catch (const DataError&) {
    }
    return 0;
}
