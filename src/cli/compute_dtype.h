#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <optional>

#include "qlora/ops/compute_capability.h"
#include "qlora/quant/quant_config.h"

namespace qlora::cli {

/// What the choice of a compute dtype depends on: the capability of a GPU, nothing for the CPU.
using Gpu = std::optional<ops::ComputeCapability>;
Gpu gpu_of(at::Device device);

/// What a run computes in: `auto` is float32 on the CPU, bfloat16 on a GPU, float16 on one below 8.0, which
/// has no bfloat16. ConfigError, one sentence with the setting's name, for a dtype that the device has not.
quant::ComputeDtype resolve_compute_dtype(quant::ComputeDtype asked, const Gpu& gpu);

/// For a model that is only read: the same, but one whose dtype the device has not is computed in float32, so
/// that an adapter from another machine can be evaluated.
at::ScalarType compute_dtype(const quant::QuantConfig& quantization, const Gpu& gpu);
inline at::ScalarType compute_dtype(const quant::QuantConfig& quantization, at::Device device) {
    return compute_dtype(quantization, gpu_of(device));
}

}  // namespace qlora::cli
