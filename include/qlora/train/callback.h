#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "qlora/eval/evaluator.h"

namespace qlora::train {

/// One optimizer step, as progress displays want it.
struct StepReport {
    std::int64_t step = 0;
    std::int64_t total_steps = 0;
    double epoch = 0.0;
    double loss = 0.0;
    double learning_rate = 0.0;
    double grad_norm = 0.0;
    double tokens_per_second = 0.0;
    double step_time = 0.0;         ///< seconds
    double seconds_left = 0.0;      ///< estimate for the training steps to come
    std::int64_t memory_bytes = 0;  ///< peak resident set of the process
    bool logged = false;  ///< a line went to metrics.jsonl; then loss is the mean since the last one
};

struct Sample {
    std::string prompt, generated, expected;
};

/// What a run tells the outside. All members may be left as they are.
class Callback {
  public:
    virtual ~Callback() = default;
    virtual void on_begin(std::int64_t /*total_steps*/, std::int64_t /*done_steps*/) {}
    virtual void on_step(const StepReport&) {}
    virtual void on_evaluation_progress(std::int64_t /*rows*/, std::int64_t /*total_rows*/) {}
    virtual void on_evaluation(std::int64_t /*step*/, const eval::EvalSums&, bool /*best*/) {}
    virtual void on_sample(const Sample&) {}
    virtual void on_save(const std::filesystem::path&) {}
    virtual void on_end() {}
};

}  // namespace qlora::train
