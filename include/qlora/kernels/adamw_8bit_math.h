#pragma once

#include <cmath>
#include <cstdint>

#include "qlora/kernels/adamw_math.h"
#include "qlora/kernels/dynamic_code.h"
#include "qlora/kernels/host_device.h"

/// AdamW with 8-bit moments (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"), as in the
/// CUDA kernel of bitsandbytes: each block of 256 elements keeps m as codes of the signed dynamic map, v as
/// codes of the unsigned one, and the largest magnitude of each in fp32. A step decodes, updates in fp32,
/// moves the parameter by the moments before they are rounded, and encodes them with new scales.
namespace qlora::kernels {

/// Elements that share one scale of m and one of v.
inline constexpr int kAdamwBlocksize = 256;
/// Tensors with fewer elements keep fp32 moments.
inline constexpr int64_t kMin8bitElements = 4096;

/// What an element needs, computed in double and rounded once. (bitsandbytes rounds both betas to fp32 first
/// and takes approximate powers and quotients.)
struct Adamw8bitFactors {
    float grad_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, eps, minus_step_size, decay;
};

inline Adamw8bitFactors adamw_8bit_factors(const AdamwSettings& settings, int group = 0) {
    const double lr = settings.lr * settings.rates[group];
    const double steps = static_cast<double>(settings.step);
    const double correction1 = 1.0 - std::pow(settings.beta1, steps);
    const double root_correction2 = std::sqrt(1.0 - std::pow(settings.beta2, steps));
    Adamw8bitFactors factors;
    factors.grad_scale = settings.grad_scale;
    factors.beta1 = static_cast<float>(settings.beta1);
    factors.one_minus_beta1 = static_cast<float>(1.0 - settings.beta1);
    factors.beta2 = static_cast<float>(settings.beta2);
    factors.one_minus_beta2 = static_cast<float>(1.0 - settings.beta2);
    factors.eps = static_cast<float>(settings.eps * root_correction2);
    factors.minus_step_size = static_cast<float>(-(lr * root_correction2 / correction1));
    factors.decay = static_cast<float>(1.0 - lr * settings.weight_decay);
    return factors;
}

/// bitsandbytes' element order: both moments, p += -step_size * (m / (sqrt(v) + eps)), then decay. Sums of
/// products are fused multiply-adds. The bias corrections are in the factors.
QLORA_HOST_DEVICE inline void adamw_8bit_update(const Adamw8bitFactors& f, float gradient, float& p, float& m,
                                                float& v) {
    const float g = gradient * f.grad_scale;
    m = std::fma(f.one_minus_beta1, g, m * f.beta1);
    v = std::fma(f.one_minus_beta2 * g, g, v * f.beta2);
    const float ratio = m / (std::sqrt(v) + f.eps);
    p = std::fma(f.minus_step_size, ratio, p) * f.decay;
}

/// Index of 0 in the signed map.
inline constexpr int kSignedZeroCode = 127;

/// Nearest code of m / absmax, but a negative m never becomes 0: it takes the code below. (bitsandbytes
/// treats -0 so too, which lets a parameter drift that never had a gradient.) In a block of zeros the
/// quotient is NaN, which encode_dynamic takes for 0.
QLORA_HOST_DEVICE constexpr int encode_first_moment(const float* signed_map, float m, float absmax) {
    const int code = encode_dynamic(signed_map, m / absmax);
    return m < 0.0f && code == kSignedZeroCode ? code - 1 : code;
}

QLORA_HOST_DEVICE constexpr int encode_second_moment(const float* unsigned_map, float v, float absmax) {
    return encode_dynamic(unsigned_map, v / absmax);
}

}  // namespace qlora::kernels
