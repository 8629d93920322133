#include "qlora/train/metrics_log.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"

namespace qlora::train {

MetricsLog::MetricsLog(std::filesystem::path file, std::int64_t last_step) : file_(std::move(file)) {
    std::ifstream in(file_, std::ios::binary);
    std::string kept, line;
    bool cut = false;
    while (std::getline(in, line)) {
        const bool whole = !in.eof();
        const Json value = Json::parse(line, nullptr, false);
        if (whole && value.is_object() && value.contains("step") && value["step"].get<std::int64_t>() <= last_step) {
            kept += line + "\n";
        } else {
            cut = true;
        }
    }
    in.close();
    if (cut) write_file_atomically(file_, kept);
}

void MetricsLog::append(const Json& line) {
    // A full disk must not end a run that can still make progress.
    std::ofstream out(file_, std::ios::binary | std::ios::app);
    out << line.dump() << '\n';
    out.close();
    if (!out) spdlog::warn("{}: a line could not be written: {}", file_.string(), std::strerror(errno));
}

}  // namespace qlora::train
