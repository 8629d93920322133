#pragma once

#include <cmath>
#include <cstdint>

#include "qlora/kernels/host_device.h"

namespace qlora::kernels {

inline constexpr int kAdamwGroups = 4;

/// One optimizer step's settings, as the user gives them. `step` counts from 1. `grad_scale` multiplies every
/// gradient first (clipping). Tensors of group g are updated with lr * rates[g].
struct AdamwSettings {
    double lr = 1e-3;
    double beta1 = 0.9;
    double beta2 = 0.999;
    double eps = 1e-8;
    double weight_decay = 0.0;
    int64_t step = 1;
    float grad_scale = 1.0f;
    double rates[kAdamwGroups] = {1.0, 1.0, 1.0, 1.0};
};

/// The same, reduced to what an element needs: computed in double and rounded to fp32 once, as
/// torch.optim.AdamW does.
struct AdamwFactors {
    float grad_scale, decay, one_minus_beta1, beta2, one_minus_beta2, root_correction2, eps, minus_step_size;
};

inline AdamwFactors adamw_factors(const AdamwSettings& settings, int group = 0) {
    const double lr = settings.lr * settings.rates[group];
    const double steps = static_cast<double>(settings.step);
    const double correction1 = 1.0 - std::pow(settings.beta1, steps);
    const double correction2 = 1.0 - std::pow(settings.beta2, steps);
    AdamwFactors factors;
    factors.grad_scale = settings.grad_scale;
    factors.decay = static_cast<float>(1.0 - lr * settings.weight_decay);
    factors.one_minus_beta1 = static_cast<float>(1.0 - settings.beta1);
    factors.beta2 = static_cast<float>(settings.beta2);
    factors.one_minus_beta2 = static_cast<float>(1.0 - settings.beta2);
    factors.root_correction2 = static_cast<float>(std::pow(correction2, 0.5));
    factors.eps = static_cast<float>(settings.eps);
    factors.minus_step_size = static_cast<float>(-(lr / correction1));
    return factors;
}

/// torch's element order: decay, lerp of the first moment, second moment, then p += -step_size * m /
/// denominator. Both moments are fused multiply-adds, as in torch's vector code.
QLORA_HOST_DEVICE inline void adamw_update(const AdamwFactors& f, float gradient, float& p, float& m,
                                           float& v) {
    const float g = gradient * f.grad_scale;
    const float decayed = p * f.decay;
    // lerp counts from the nearer end, so that it is exact at both.
    m = f.one_minus_beta1 < 0.5f ? std::fma(f.one_minus_beta1, g - m, m)
                                 : std::fma(f.one_minus_beta1 - 1.0f, g - m, g);
    v = std::fma(f.one_minus_beta2 * g, g, v * f.beta2);
    const float denominator = std::sqrt(v) / f.root_correction2 + f.eps;
    p = decayed + f.minus_step_size * m / denominator;
}

}  // namespace qlora::kernels
