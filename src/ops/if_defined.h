#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace qlora::ops {

/// An argument of an autograd node that may be absent: a node refuses undefined tensors.
inline std::optional<at::Tensor> if_defined(const at::Tensor& tensor) {
    return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

}  // namespace qlora::ops
