#pragma once

#include <ATen/core/Tensor.h>

#include "qlora/io/safetensors.h"

namespace qlora::quant {

/// A dense copy of a checkpoint's tensor in its own dtype (F32, F16, BF16, and the integer types).
at::Tensor tensor_from_view(const io::TensorView& view);

/// Whether every value of a floating tensor (F32, F16, BF16) is finite: its bits are looked at, nothing is
/// copied.
bool all_finite(const io::TensorView& view);

/// The safetensors element type of an ATen dtype, and the bytes of a contiguous CPU tensor.
io::DType dtype_of(at::ScalarType dtype);
at::ScalarType scalar_type_of(io::DType dtype);
std::span<const std::byte> bytes_of(const at::Tensor& tensor);

}  // namespace qlora::quant
