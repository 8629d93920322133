#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "qlora/core/json.h"

namespace qlora::train {

/// How much of an earlier process's `metrics.jsonl` a run goes on from.
struct MetricsCut {
    std::int64_t last_step = -1;    ///< lines of later steps go; -1: all
    bool drops_evaluation = false;  ///< that of `last_step` goes too, because the run makes it again
};

/// `metrics.jsonl`: one JSON object a line, written as it happens; always valid JSON.
class MetricsLog {
  public:
    /// Cuts the file back, so that a resumed run neither doubles nor misses a line. An incomplete last line
    /// (a killed process) goes too.
    MetricsLog(std::filesystem::path file, const MetricsCut& cut);

    /// A line that cannot be written (a full disk, say) is kept and tried again with the next: it must not
    /// end a run.
    void append(const Json& line);
    /// Makes what was written survive a power loss.
    void sync();

  private:
    /// Whether all lines are in the file; of a line that does not fit, nothing is.
    bool write_pending();

    std::filesystem::path file_;
    std::string pending_;
    bool warned_ = false;
    bool is_name_synced_ = false;
};

}  // namespace qlora::train
