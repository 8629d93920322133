// Prints the rows that data paths name, for the peer tests: one JSON line a row with `file`, `line`, and
// either `row`, its text, or `fault`; behind those of a file its `hash`, or the `error` that ended the
// reading; at last `peak_mib`, the most memory that it took.
#include <cstdint>
#include <exception>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "data/row_source.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/data/data_files.h"

namespace {

using namespace qlora;

void print(const Json& line) {
    std::cout << line.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
}

void print_rows(const std::filesystem::path& file) {
    const std::string name = file.filename().string();
    try {
        Xxh3 hash;
        const auto source = data::open_rows(file, hash);
        for (data::RawRow row; source->next(row);) {
            Json line = {{"file", name}, {"line", row.line}};
            line[row.fault.empty() ? "row" : "fault"] = row.fault.empty() ? std::string(row.text) : row.fault;
            print(line);
        }
        print({{"file", name}, {"hash", hash.hex()}});
    } catch (const Error& error) {
        print({{"file", name}, {"error", error.what()}});
    }
}

// getrusage would count the program that started this one too.
std::int64_t peak_mib() {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
        if (word != "VmHWM:") continue;
        std::int64_t kib = 0;
        status >> kib;
        return kib / 1024;
    }
    return -1;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const std::vector<std::filesystem::path> paths(argv + 1, argv + argc);
        for (const std::filesystem::path& file : data::data_files(paths)) print_rows(file);
        print({{"peak_mib", peak_mib()}});
    } catch (const std::exception& error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
    return 0;
}
