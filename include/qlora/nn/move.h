#pragma once

#include <ATen/ATen.h>

namespace qlora::nn {

/// Moves a tensor that may be undefined. A parameter stays the same tensor, wherever else it is known.
inline void move_to(at::Tensor& tensor, at::Device device) {
    if (!tensor.defined() || tensor.device() == device) return;
    if (tensor.requires_grad()) {
        tensor.set_data(tensor.detach().to(device));
    } else {
        tensor = tensor.to(device);
    }
}

}  // namespace qlora::nn
