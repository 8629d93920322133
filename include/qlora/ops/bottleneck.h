#pragma once

#include <ATen/core/Tensor.h>

#include "qlora/ops/projection.h"

namespace qlora::ops {

enum class BottleneckActivation { kRelu, kTanh, kSilu, kGelu, kGeluTanh };

/// Two linears, fp32 on any model: down [width, in] with its bias [width], up [in, width] with its bias [in].
struct BottleneckWeights {
    at::Tensor down, down_bias, up, up_bias;
};

struct BottleneckRule {
    BottleneckActivation activation = BottleneckActivation::kRelu;
    double scaling = 1.0;
    DropoutSite dropout = {};
};

/// start + scaling * dropout(up(activation(down(x)))) in the dtype of `start`, which may be x; both [T, in].
/// On the CPU all of it is fp32 and rounded once; a device multiplies in the dtype of x. Backward reads x and
/// fp32 (on a device: dtype of x) values [T, width].
at::Tensor bottleneck(const at::Tensor& start, const at::Tensor& x, const BottleneckWeights& weights,
                      const BottleneckRule& rule);

}  // namespace qlora::ops
