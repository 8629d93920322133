#pragma once

#include "qlora/ops/rope.h"

/// rope_ where each kind of kernels runs: fp32 on the CPU, 16 bits on the CPU by LibTorch, a device.
namespace qlora::ops {

namespace in_fp32 {
void rope_(at::Tensor& x, const TurnedHeads& heads, const RopeTable& table, RopeDirection direction);
}
namespace in_bf16 {
void rope_(at::Tensor& x, const TurnedHeads& heads, const RopeTable& table, RopeDirection direction);
}
namespace on_device {
void rope_(at::Tensor& x, const TurnedHeads& heads, const RopeTable& table, RopeDirection direction);
}

}  // namespace qlora::ops
