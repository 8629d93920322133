#pragma once

#include "qlora/kernels/host_device.h"

/// Which of several formulas a part of a decoder layer follows; n = x / sqrt(mean(x^2) + eps) in fp32.
namespace qlora::kernels {

enum class NormKind {
    kRms,      ///< weight * round(n), rounded (transformers' LlamaRMSNorm)
    kRmsLate,  ///< round(weight * n)
    kLayer     ///< round((x - mean(x)) / sqrt(variance(x) + eps) * weight + bias)
};

enum class Activation {
    kSilu,      ///< x sigmoid(x)
    kGeluTanh,  ///< x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), "gelu_new" and "gelu_pytorch_tanh"
    kGelu       ///< x / 2 (1 + erf(x / sqrt(2)))
};

/// What follows the output head: a logit l becomes softcap * tanh(scale * l / softcap), or scale * l where
/// softcap is 0.
struct LogitCurve {
    float scale = 1.0f, softcap = 0.0f;

    QLORA_HOST_DEVICE constexpr bool is_identity() const { return scale == 1.0f && softcap == 0.0f; }
};

}  // namespace qlora::kernels
