#pragma once

#include <cstdint>

#include "qlora/kernels/kernels.h"
#include "qlora/quant/quantized_tensor.h"

namespace qlora::quant {

/// Values a thread takes at least, so that small matrices are not split.
inline constexpr std::int64_t kGrain = 1 << 16;

/// The matrix as kernels see it.
inline kernels::Nf4View view_of(const QuantizedTensor& tensor) {
    kernels::AbsmaxView absmax;
    if (tensor.double_quantized()) {
        absmax.codes = tensor.absmax.const_data_ptr<std::uint8_t>();
        absmax.nested_absmax = tensor.nested_absmax.const_data_ptr<float>();
        absmax.offset = tensor.nested_offset;
    } else {
        absmax.values = tensor.absmax.const_data_ptr<float>();
    }
    return {.packed = tensor.codes.const_data_ptr<std::uint8_t>(),
            .absmax = absmax,
            .n = tensor.rows * tensor.columns,
            .blocksize = static_cast<int>(tensor.blocksize)};
}

}  // namespace qlora::quant
