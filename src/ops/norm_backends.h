#pragma once

#include "qlora/ops/norm.h"

/// The implementations of norm.h's functions, with its contracts: fp32 and 16 bits on the CPU, and any type
/// on a device.
namespace qlora::ops {

/// Tensors that join a norm, each undefined where there is none.
struct NormTerms {
    at::Tensor into;      ///< memory of y, for a device alone
    at::Tensor residual;  ///< added to x first
    at::Tensor added;     ///< y = added + multiplier * norm
    double multiplier = 1.0;
};

/// A tensor that joins a norm, its values without gaps.
inline at::Tensor adjacent(const at::Tensor& x) {
    return x.defined() ? x.contiguous() : x;
}

#define QLORA_NORM_BACKEND(backend)                                                                     \
    namespace backend {                                                                                 \
    NormResult norm_forward(const at::Tensor& x, const Norm& norm, const NormTerms& terms);             \
    at::Tensor norm_recompute(const at::Tensor& x, const Norm& norm, const NormStatistics& statistics); \
    at::Tensor norm_backward(const at::Tensor& dy, const at::Tensor& x, const Norm& norm,               \
                             const NormStatistics& statistics, const at::Tensor& residual);             \
    }
QLORA_NORM_BACKEND(in_fp32)
QLORA_NORM_BACKEND(in_bf16)
QLORA_NORM_BACKEND(on_device)
#undef QLORA_NORM_BACKEND

}  // namespace qlora::ops
