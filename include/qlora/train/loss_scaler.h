#pragma once

#include <cstdint>

#include "qlora/train/run_state.h"

namespace qlora::train {

/// Scale of the loss in float16, so that small gradients do not vanish (Micikevicius et al. 2018; the numbers
/// of torch.amp.GradScaler). Its state is the run's, so it is saved and resumed. A step that overflows is not
/// lost: it is made again with half the scale.
class LossScaler {
  public:
    static constexpr double kFirstScale = 65536.0;
    static constexpr std::int64_t kGrowthInterval = 2000;

    /// `is_on` in float16 alone; off, the scale is 1.
    LossScaler(RunState& state, bool is_on) : state_(state), is_on_(is_on) {}

    double scale() const {
        if (!is_on_) return 1.0;
        return state_.loss_scale > 0 ? state_.loss_scale : kFirstScale;
    }

    /// Halves the scale; false when it is 1 already and the fault lies elsewhere.
    bool lower() {
        if (!is_on_ || scale() <= 1.0) return false;
        state_.loss_scale = scale() / 2;
        state_.steps_at_loss_scale = 0;
        return true;
    }

    /// After each update: the scale doubles when it held for long.
    void step_done() {
        if (!is_on_) return;
        state_.loss_scale = scale();
        if (++state_.steps_at_loss_scale < kGrowthInterval) return;
        state_.loss_scale *= 2;
        state_.steps_at_loss_scale = 0;
    }

  private:
    RunState& state_;
    bool is_on_;
};

}  // namespace qlora::train
