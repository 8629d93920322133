#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "qlora/kernels/adamw_math.h"
#include "qlora/nn/parameter.h"
#include "qlora/train/training_config.h"

namespace qlora::train {

class DeviceAdamw;

/// Bytes of both moments of one tensor.
std::int64_t moment_bytes(std::int64_t elements, OptimizerType type);

/// AdamW (Loshchilov and Hutter 2019). With adamw_torch every moment is fp32, as in torch.optim.AdamW,
/// element by element; with adamw_8bit those of tensors with kMin8bitElements and more are 8-bit codes in
/// blocks (kernels/adamw_8bit_math.h), as in bitsandbytes. States lie where the parameters do.
class AdamW {
  public:
    /// The parameters are fp32 and contiguous. Their gradients are views of one buffer from here on, into
    /// which autograd adds: their places never change.
    AdamW(const std::vector<nn::Parameter>& parameters, const TrainingConfig& config);
    ~AdamW();

    /// One update from the parameters' gradients, each multiplied by `grad_scale` first.
    void step(double learning_rate, float grad_scale);
    void zero_grad();

    /// sqrt of the sum of squares of all gradients, in double; finite exactly when every gradient is.
    double grad_norm() const;

    /// Key of the first parameter, moment or scale that holds a value that is not finite; empty if there is
    /// none.
    std::string nonfinite_tensor() const;

    std::int64_t steps() const { return steps_; }
    /// The moments under "exp_avg." and "exp_avg_sq." + the parameter's key; where they are codes, the
    /// blocks' scales follow under the same name + ".absmax".
    std::vector<nn::Parameter> state() const;
    /// Takes what `state` gave from `file`; strict (names, shapes, types, finite). `steps` comes from the run
    /// state.
    void load_state(const std::filesystem::path& file, std::int64_t steps);

  private:
    struct Moment {
        std::string key;
        at::Tensor values;  ///< fp32, or uint8 codes
        at::Tensor absmax;  ///< fp32 scales of the codes, else undefined
    };
    struct Slot {
        nn::Parameter parameter;
        Moment exp_avg, exp_avg_sq;
    };
    /// The place of a rate in `rates_`.
    int group_of(double rate);
    void step_on_cpu(Slot& slot, const kernels::AdamwSettings& settings);
    static Moment make_moment(std::string key, const at::Tensor& parameter, OptimizerType type);

    std::vector<Slot> slots_;
    at::Tensor gradients_;  ///< of all parameters, each from a multiple of 64 bytes on; the gaps are zero
    double beta1_, beta2_, eps_, weight_decay_;
    std::int64_t steps_ = 0;
    std::vector<double> rates_;            ///< that parameters on a device have
    std::unique_ptr<DeviceAdamw> device_;  ///< where kernels of a device serve the parameters
};

}  // namespace qlora::train
