#pragma once

#include <filesystem>

#include "qlora/core/json.h"

namespace qlora::train {

/// `metrics.jsonl`: one JSON object a line, appended and flushed as it happens; always valid JSON.
class MetricsLog {
  public:
    /// Opens the file and cuts it back to the lines whose `step` is at most `last_step`, so that a resumed run neither
    /// doubles nor misses a line. An incomplete last line (a killed process) goes too.
    MetricsLog(std::filesystem::path file, std::int64_t last_step);

    void append(const Json& line);

  private:
    std::filesystem::path file_;
};

}  // namespace qlora::train
