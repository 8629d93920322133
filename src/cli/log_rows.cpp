#include "log_rows.h"

#include "qlora/core/log.h"
#include "qlora/data/preview.h"

namespace qlora::cli {

void log_rows(const std::string& title, const data::DatasetStatistics& statistics) {
    spdlog::info("{}: {}", title, data::summary_line(statistics));
    const std::string passed_over = data::passed_over_line(statistics);
    if (!passed_over.empty()) spdlog::info("{}: fields passed over: {}", title, passed_over);
}

}  // namespace qlora::cli
