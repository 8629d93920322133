#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "qlora/adapters/inject.h"
#include "qlora/train/training_config.h"

namespace qlora::train {

/// AdamW with fp32 states (Loshchilov and Hutter 2019; torch.optim.AdamW, element by element).
class AdamW {
  public:
    AdamW(const std::vector<adapters::TrainableParameter>& parameters, const TrainingConfig& config);

    /// One update from the parameters' gradients, each multiplied by `grad_scale` first.
    void step(double learning_rate, float grad_scale);
    void zero_grad();

    /// sqrt of the sum of squares of all gradients, in double; finite exactly when every gradient is.
    double grad_norm() const;

    /// Key of the first parameter or moment that holds a value that is not finite; empty if there is none.
    std::string nonfinite_tensor() const;

    std::int64_t steps() const { return steps_; }
    /// The moments under "exp_avg." and "exp_avg_sq." + the parameter's key.
    std::vector<adapters::TrainableParameter> state() const;
    /// Takes what `state` gave from `file`; strict (names, shapes, finite). `steps` comes from the run state.
    void load_state(const std::filesystem::path& file, std::int64_t steps);

  private:
    struct Slot {
        adapters::TrainableParameter parameter;
        at::Tensor exp_avg, exp_avg_sq;
    };
    std::vector<Slot> slots_;
    double beta1_, beta2_, eps_, weight_decay_;
    std::int64_t steps_ = 0;
};

}  // namespace qlora::train
