#pragma once

#include <ATen/core/Tensor.h>

#include "qlora/ops/device.h"

namespace qlora::ops {

/// Of an operation's three implementations the one that serves x: kernels of a device, else on the CPU that
/// for fp32 or that for 16 bits.
template <class Function>
Function of_backend(const at::Tensor& x, Function fp32, Function bf16, Function device) {
    if (device_kernels(x) != nullptr) return device;
    return x.scalar_type() == at::kFloat ? fp32 : bf16;
}

}  // namespace qlora::ops
