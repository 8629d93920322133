#include "qlora/train/adamw.h"

#include <cmath>

#include "qlora/core/error.h"
#include "qlora/io/safetensors.h"
#include "qlora/kernels/kernels.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora::train {
namespace {

/// Squares of floats do not overflow in the double that they are summed in.
bool is_finite(const at::Tensor& tensor) {
    return std::isfinite(kernels::cpu::sum_of_squares(tensor.const_data_ptr<float>(), tensor.numel()));
}

}  // namespace

AdamW::AdamW(const std::vector<adapters::TrainableParameter>& parameters, const TrainingConfig& config)
    : beta1_(config.adam_beta1),
      beta2_(config.adam_beta2),
      eps_(config.adam_epsilon),
      weight_decay_(config.weight_decay) {
    for (const adapters::TrainableParameter& parameter : parameters) {
        at::Tensor tensor = parameter.tensor;
        tensor.mutable_grad() = at::zeros_like(tensor, at::TensorOptions().requires_grad(false));
        slots_.push_back(
            {parameter, at::zeros(tensor.sizes(), at::kFloat), at::zeros(tensor.sizes(), at::kFloat)});
    }
}

void AdamW::step(double learning_rate, float grad_scale) {
    ++steps_;
    for (Slot& slot : slots_) {
        const kernels::AdamwSettings settings{.lr = learning_rate,
                                              .beta1 = beta1_,
                                              .beta2 = beta2_,
                                              .eps = eps_,
                                              .weight_decay = slot.parameter.decays ? weight_decay_ : 0.0,
                                              .step = steps_,
                                              .grad_scale = grad_scale};
        at::Tensor value = slot.parameter.tensor.detach();
        kernels::cpu::adamw_step(value.mutable_data_ptr<float>(),
                                 slot.parameter.tensor.grad().const_data_ptr<float>(),
                                 slot.exp_avg.mutable_data_ptr<float>(),
                                 slot.exp_avg_sq.mutable_data_ptr<float>(), value.numel(), settings);
        // Writes through a pointer are not counted by themselves; kept effective weights depend on the count.
        slot.parameter.tensor.unsafeGetTensorImpl()->bump_version();
    }
}

void AdamW::zero_grad() {
    for (Slot& slot : slots_) slot.parameter.tensor.mutable_grad().zero_();
}

double AdamW::grad_norm() const {
    double sum = 0.0;
    for (const Slot& slot : slots_) {
        const at::Tensor gradient = slot.parameter.tensor.grad();
        sum += kernels::cpu::sum_of_squares(gradient.const_data_ptr<float>(), gradient.numel());
    }
    return std::sqrt(sum);
}

std::string AdamW::nonfinite_tensor() const {
    for (const Slot& slot : slots_) {
        if (!is_finite(slot.parameter.tensor)) return slot.parameter.key;
        if (!is_finite(slot.exp_avg)) return "exp_avg." + slot.parameter.key;
        if (!is_finite(slot.exp_avg_sq)) return "exp_avg_sq." + slot.parameter.key;
    }
    return {};
}

std::vector<adapters::TrainableParameter> AdamW::state() const {
    std::vector<adapters::TrainableParameter> out;
    for (const Slot& slot : slots_) {
        out.push_back({"exp_avg." + slot.parameter.key, slot.exp_avg});
        out.push_back({"exp_avg_sq." + slot.parameter.key, slot.exp_avg_sq});
    }
    return out;
}

void AdamW::load_state(const std::filesystem::path& file, std::int64_t steps) {
    const io::SafetensorsFile source(file);
    const std::vector<adapters::TrainableParameter> targets = state();
    FaultList faults;
    if (source.tensors().size() != targets.size()) {
        faults.add("", "holds " + std::to_string(source.tensors().size()) + " tensors, the run needs " +
                           std::to_string(targets.size()));
    }
    for (const adapters::TrainableParameter& target : targets) {
        const io::TensorView* view = source.find(target.key);
        if (view == nullptr || at::IntArrayRef(view->shape) != target.tensor.sizes() ||
            view->dtype != io::DType::kF32) {
            faults.add(target.key, "is missing or has another shape");
            continue;
        }
        at::Tensor tensor = target.tensor;
        tensor.copy_(quant::tensor_from_view(*view));
        if (!is_finite(tensor)) faults.add(target.key, "holds a value that is not a finite number");
    }
    faults.throw_if_any<CheckpointError>(file.string());
    steps_ = steps;
}

}  // namespace qlora::train
