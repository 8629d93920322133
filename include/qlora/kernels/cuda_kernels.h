#pragma once

#include <cstdint>

#include "qlora/kernels/kernel_backend.h"
#include "qlora/kernels/kernels.h"

namespace qlora::kernels {

/// A few rows times a quantized matrix, for generation.
struct MatvecNf4Params {
    Nf4View weight;  ///< [outputs, inputs], so n = outputs * inputs
    int64_t outputs;
    int64_t inputs;
    const void* x;  ///< [rows, inputs] of `type`
    int rows;       ///< 1 .. kFewRows
    void* y;        ///< [rows, outputs] of `type`
    FloatType type;
};

/// A quantized matrix to write out row by row, with the columns of its adapter behind each row: the operand
/// of one product that is base and adapter (W | scaling * B) (x | x A^T)^T.
struct DequantizeRowsParams {
    Nf4View weight;  ///< [rows, columns], so n = rows * columns
    int64_t columns;
    int64_t first, count;   ///< rows to write; out[0] is of the first of them
    const float* appended;  ///< [count, appended_columns], contiguous, or null
    int64_t appended_columns;
    void* out;  ///< [count, columns + appended_columns] of `type`, contiguous
    FloatType type;
};

}  // namespace qlora::kernels

/// The kernels of kernels.h on a GPU: same contracts, same bytes. Every pointer is device memory; a call
/// queues one launch on `stream` and returns without waiting for it. Impossible arguments throw
/// std::invalid_argument, a launch that the driver refuses std::runtime_error. Tensors of floats are aligned
/// to their element, packed codes may start at any byte; where they are aligned to 16 and 8 bytes, wider
/// accesses are used, with the same result.
namespace qlora::kernels::QLORA_KERNEL_BACKEND {

/// The whole tensor. *first_non_finite must hold -1; if the input holds a value that is not finite it becomes
/// the index of the first one, and what was written to the blocks with such values is unspecified.
void quantize_blockwise_nf4(const QuantizeNf4Params& params, int64_t* first_non_finite, Stream stream);

/// Everything at once: *offset becomes the mean of all scales.
void quantize_absmax(const float* absmax, int64_t blocks, uint8_t* codes, float* nested_absmax, float* offset,
                     Stream stream);

/// Values [begin, end) of the tensor, any range; 8-bit scales are decoded in the same launch.
void dequantize_blockwise_nf4(const Nf4View& view, int64_t begin, int64_t end, void* out, FloatType type,
                              Stream stream);

/// The rows as dequantize_blockwise_nf4 gives them, `appended` rounded once to `type` behind each. One
/// launch.
void dequantize_rows_nf4(const DequantizeRowsParams& params, Stream stream);

/// y = x * weight^T. Each weight is what dequantize_blockwise_nf4 gives for `type`; products are added in
/// fp32 with fused multiply-adds and the sum is rounded once. The order is fixed by `inputs` alone: lane l of
/// 32 adds the values 16 g .. 16 g + 15 of the groups g = l, l + 32, .. one after another, then lanes are
/// added pairwise at distances 16, 8, 4, 2, 1.
void matvec_nf4(const MatvecNf4Params& params, Stream stream);

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
