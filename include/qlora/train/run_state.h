#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/json.h"

namespace qlora::train {

/// Everything a resumed run needs beside the adapter and the optimizer's moments. The data order and the
/// dropout masks are functions of seed, epoch and micro_step, so nothing else has to be stored.
struct RunState {
    std::int64_t step = 0;             ///< optimizer steps done
    std::int64_t epoch = 0;            ///< epochs begun before the next step
    std::int64_t step_in_epoch = 0;    ///< steps done of that epoch
    std::int64_t micro_step = 0;       ///< micro-batches done
    std::int64_t optimizer_steps = 0;  ///< updates made (a non-finite step makes none)
    std::int64_t tokens = 0;
    std::int64_t supervised_tokens = 0;
    std::int64_t nonfinite_in_a_row = 0;
    std::int64_t skipped_steps = 0;  ///< steps without any supervised token
    bool adapters_proven = false;    ///< the first update was looked at: every B finite, not all of them zero
    bool boundary_pending = false;   ///< the step's evaluation was not finished when this was saved

    double loss_scale = 0.0;               ///< of a float16 run (LossScaler); 0 before its first step
    std::int64_t steps_at_loss_scale = 0;  ///< updates since it changed

    // Since the last log line.
    double logged_loss_sum = 0.0;
    std::int64_t logged_steps = 0;
    std::vector<std::int64_t> logged_rows;

    std::optional<double> first_eval_loss, last_eval_loss, best_eval_loss;
    std::int64_t best_step = 0;

    Json to_json() const;
    static RunState from_json(const Json& json, const std::string& name);

    /// Names every member once, for both directions.
    template <class Self, class Visitor>
    static void fields(Self& self, Visitor&& visit) {
        visit("step", self.step);
        visit("epoch", self.epoch);
        visit("step_in_epoch", self.step_in_epoch);
        visit("micro_step", self.micro_step);
        visit("optimizer_steps", self.optimizer_steps);
        visit("tokens", self.tokens);
        visit("supervised_tokens", self.supervised_tokens);
        visit("nonfinite_in_a_row", self.nonfinite_in_a_row);
        visit("skipped_steps", self.skipped_steps);
        visit("adapters_proven", self.adapters_proven);
        visit("boundary_pending", self.boundary_pending);
        visit("loss_scale", self.loss_scale);
        visit("steps_at_loss_scale", self.steps_at_loss_scale);
        visit("logged_loss_sum", self.logged_loss_sum);
        visit("logged_steps", self.logged_steps);
        visit("logged_rows", self.logged_rows);
        visit("first_eval_loss", self.first_eval_loss);
        visit("last_eval_loss", self.last_eval_loss);
        visit("best_eval_loss", self.best_eval_loss);
        visit("best_step", self.best_step);
    }
};

}  // namespace qlora::train
