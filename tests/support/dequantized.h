#pragma once

#include "qlora/quant/quantized_tensor.h"

namespace qlora::test {

/// The whole matrix [rows, columns] in `dtype`.
inline at::Tensor dequantized(const quant::QuantizedTensor& tensor, at::ScalarType dtype) {
    return quant::dequantize_rows(tensor, 0, tensor.rows, dtype);
}

}  // namespace qlora::test
