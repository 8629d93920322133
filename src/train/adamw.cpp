#include "qlora/train/adamw.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "device_adamw.h"
#include "qlora/core/error.h"
#include "qlora/io/safetensors.h"
#include "qlora/kernels/adamw_8bit_math.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/kernels.h"
#include "qlora/ops/device.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora::train {
namespace {

/// Squares of floats do not overflow in the double that they are summed in.
bool is_finite(const at::Tensor& tensor) {
    if (!tensor.is_cpu()) return is_finite(tensor.cpu());
    return std::isfinite(kernels::cpu::sum_of_squares(tensor.const_data_ptr<float>(), tensor.numel()));
}

bool has_codes(std::int64_t elements, OptimizerType type) {
    return type == OptimizerType::kAdamw8bit && elements >= kernels::kMin8bitElements;
}

/// Elements from one gradient's start to the next one's: 64 bytes a cache line.
std::int64_t gradient_room(std::int64_t elements) {
    constexpr std::int64_t kLine = 16;
    return (elements + kLine - 1) / kLine * kLine;
}

constexpr const char* kAbsmaxSuffix = ".absmax";
/// Blocks of 8-bit moments a thread takes, at least.
constexpr std::int64_t kGrain = 16;

}  // namespace

std::int64_t moment_bytes(std::int64_t elements, OptimizerType type) {
    if (!has_codes(elements, type)) return 2 * 4 * elements;
    return 2 * (elements + 4 * kernels::block_count(elements, kernels::kAdamwBlocksize));
}

AdamW::Moment AdamW::make_moment(std::string key, const at::Tensor& parameter, OptimizerType type) {
    Moment moment{.key = std::move(key)};
    const bool codes = has_codes(parameter.numel(), type);
    const at::TensorOptions there = at::TensorOptions(parameter.device());
    moment.values = at::zeros(parameter.sizes(), there.dtype(codes ? at::kByte : at::kFloat));
    if (codes) {
        moment.absmax = at::zeros({kernels::block_count(parameter.numel(), kernels::kAdamwBlocksize)},
                                  there.dtype(at::kFloat));
    }
    return moment;
}

AdamW::AdamW(const std::vector<nn::Parameter>& parameters, const TrainingConfig& config)
    : beta1_(config.adam_beta1),
      beta2_(config.adam_beta2),
      eps_(config.adam_epsilon),
      weight_decay_(config.weight_decay) {
    std::int64_t room = 0;
    for (const nn::Parameter& parameter : parameters) {
        room += gradient_room(parameter.tensor.numel());
    }
    const at::Device device = parameters.empty() ? at::kCPU : parameters.front().tensor.device();
    gradients_ = at::zeros({room}, at::TensorOptions(device).dtype(at::kFloat));
    std::int64_t offset = 0;
    for (const nn::Parameter& parameter : parameters) {
        at::Tensor tensor = parameter.tensor;
        tensor.mutable_grad() = gradients_.narrow(0, offset, tensor.numel()).view(tensor.sizes());
        offset += gradient_room(tensor.numel());
        slots_.push_back({parameter, make_moment("exp_avg." + parameter.key, tensor, config.optim),
                          make_moment("exp_avg_sq." + parameter.key, tensor, config.optim)});
    }
    if (ops::device_kernels(device) == nullptr) return;
    std::vector<kernels::AdamwTensor> tensors;
    for (Slot& slot : slots_) {
        at::Tensor value = slot.parameter.tensor.detach();
        kernels::AdamwTensor tensor{.p = value.mutable_data_ptr<float>(),
                                    .g = slot.parameter.tensor.grad().const_data_ptr<float>(),
                                    .n = value.numel(),
                                    .decays = slot.parameter.decays ? 1 : 0,
                                    .group = group_of(slot.parameter.rate)};
        if (slot.exp_avg.absmax.defined()) {
            tensor.m_codes = slot.exp_avg.values.mutable_data_ptr<std::uint8_t>();
            tensor.v_codes = slot.exp_avg_sq.values.mutable_data_ptr<std::uint8_t>();
            tensor.m_absmax = slot.exp_avg.absmax.mutable_data_ptr<float>();
            tensor.v_absmax = slot.exp_avg_sq.absmax.mutable_data_ptr<float>();
        } else {
            tensor.m = slot.exp_avg.values.mutable_data_ptr<float>();
            tensor.v = slot.exp_avg_sq.values.mutable_data_ptr<float>();
        }
        tensors.push_back(tensor);
    }
    device_ = std::make_unique<DeviceAdamw>(tensors, gradients_);
}

AdamW::~AdamW() = default;

int AdamW::group_of(double rate) {
    auto place = std::find(rates_.begin(), rates_.end(), rate);
    if (place == rates_.end()) {
        if (rates_.size() == kernels::kAdamwGroups)
            throw Error(ExitCode::kInternal, "more learning rates than the optimizer's kernel takes");
        place = rates_.insert(rates_.end(), rate);
    }
    return static_cast<int>(place - rates_.begin());
}

void AdamW::step(double learning_rate, float grad_scale) {
    ++steps_;
    kernels::AdamwSettings settings{.lr = learning_rate,
                                    .beta1 = beta1_,
                                    .beta2 = beta2_,
                                    .eps = eps_,
                                    .weight_decay = weight_decay_,
                                    .step = steps_,
                                    .grad_scale = grad_scale};
    if (device_) {
        std::copy(rates_.begin(), rates_.end(), settings.rates);
        device_->step(settings);
    }
    for (Slot& slot : slots_) {
        settings.weight_decay = slot.parameter.decays ? weight_decay_ : 0.0;
        settings.rates[0] = slot.parameter.rate;
        if (!device_) step_on_cpu(slot, settings);
        // Writes through a pointer are not counted by themselves; kept effective weights depend on the count.
        slot.parameter.tensor.unsafeGetTensorImpl()->bump_version();
    }
}

void AdamW::step_on_cpu(Slot& slot, const kernels::AdamwSettings& settings) {
    at::Tensor value = slot.parameter.tensor.detach();
    float* p = value.mutable_data_ptr<float>();
    const float* g = slot.parameter.tensor.grad().const_data_ptr<float>();
    at::Tensor& m = slot.exp_avg.values;
    at::Tensor& v = slot.exp_avg_sq.values;
    if (!slot.exp_avg.absmax.defined()) {
        kernels::cpu::adamw_step(p, g, m.mutable_data_ptr<float>(), v.mutable_data_ptr<float>(),
                                 value.numel(), settings);
        return;
    }
    const kernels::Adamw8bitParams params{p,
                                          g,
                                          m.mutable_data_ptr<std::uint8_t>(),
                                          v.mutable_data_ptr<std::uint8_t>(),
                                          slot.exp_avg.absmax.mutable_data_ptr<float>(),
                                          slot.exp_avg_sq.absmax.mutable_data_ptr<float>(),
                                          value.numel()};
    at::parallel_for(0, slot.exp_avg.absmax.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
        kernels::cpu::adamw_8bit_step(params, begin, end, settings);
    });
}

void AdamW::zero_grad() {
    gradients_.zero_();
}

double AdamW::grad_norm() const {
    if (device_) return std::sqrt(device_->gradient_sum_of_squares());
    double sum = 0.0;
    for (const Slot& slot : slots_) {
        const at::Tensor gradient = slot.parameter.tensor.grad();
        sum += kernels::cpu::sum_of_squares(gradient.const_data_ptr<float>(), gradient.numel());
    }
    return std::sqrt(sum);
}

std::string AdamW::nonfinite_tensor() const {
    if (device_ && device_->all_finite()) return {};
    for (const Slot& slot : slots_) {
        if (!is_finite(slot.parameter.tensor)) return slot.parameter.key;
        for (const Moment* moment : {&slot.exp_avg, &slot.exp_avg_sq}) {
            const bool codes = moment->absmax.defined();
            if (!is_finite(codes ? moment->absmax : moment->values)) {
                return codes ? moment->key + kAbsmaxSuffix : moment->key;
            }
        }
    }
    return {};
}

std::vector<nn::Parameter> AdamW::state() const {
    std::vector<nn::Parameter> out;
    for (const Slot& slot : slots_) {
        for (const Moment* moment : {&slot.exp_avg, &slot.exp_avg_sq}) {
            out.push_back({moment->key, moment->values});
            if (moment->absmax.defined()) out.push_back({moment->key + kAbsmaxSuffix, moment->absmax});
        }
    }
    return out;
}

void AdamW::load_state(const std::filesystem::path& file, std::int64_t steps) {
    const io::SafetensorsFile source(file);
    const std::vector<nn::Parameter> targets = state();
    FaultList faults;
    if (source.tensors().size() != targets.size()) {
        faults.add("", "holds " + std::to_string(source.tensors().size()) + " tensors, the run needs " +
                           std::to_string(targets.size()));
    }
    for (const nn::Parameter& target : targets) {
        const io::TensorView* view = source.find(target.key);
        if (view == nullptr || at::IntArrayRef(view->shape) != target.tensor.sizes() ||
            view->dtype != quant::dtype_of(target.tensor.scalar_type())) {
            faults.add(target.key, "is missing or has another shape or type");
            continue;
        }
        const at::Tensor saved = quant::tensor_from_view(*view);
        if (saved.is_floating_point() && !is_finite(saved))
            faults.add(target.key, "holds a value that is not a finite number");
        target.tensor.copy_(saved);
    }
    faults.throw_if_any<CheckpointError>(file.string());
    steps_ = steps;
}

}  // namespace qlora::train
