#include "log_rows.h"

#include "qlora/core/log.h"
#include "qlora/data/preview.h"

namespace qlora::cli {

void log_rows(const std::string& title, const data::DatasetStatistics& statistics) {
    spdlog::info("{}: {}", title, data::summary_line(statistics));
    const std::string passed_over = data::passed_over_line(statistics);
    if (!passed_over.empty()) spdlog::info("{}: fields passed over: {}", title, passed_over);
    if (statistics.cut_edges > 0) {
        spdlog::info("{}: in {} rows a token would cross the edge of an answer, and is cut there", title,
                     statistics.cut_edges);
    }
    if (statistics.without_end > 0) {
        spdlog::warn(
            "{}: {} rows have a trained answer that no end token follows: the model does not learn to stop "
            "there",
            title, statistics.without_end);
    }
    if (const std::string prompts = data::describe_prompts(statistics.other_prompts); !prompts.empty())
        spdlog::info("{}: {}", title, prompts);
}

}  // namespace qlora::cli
