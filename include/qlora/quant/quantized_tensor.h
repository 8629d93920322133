#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "qlora/quant/quant_config.h"

namespace qlora::io {
struct TensorView;
}

namespace qlora::quant {

struct BnbMatrix;

/// A matrix in blockwise NF4 (Dettmers et al. 2023; bitsandbytes' layout): blocks of `blocksize` values run
/// row-major across row ends, two codes a byte, the first in the high nibble.
struct QuantizedTensor {
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::int64_t blocksize = 64;
    at::Tensor codes;          ///< uint8 [ceil(rows * columns / 2)]
    at::Tensor absmax;         ///< fp32 [blocks]; uint8 codes of the dynamic map when quantized again
    at::Tensor nested_absmax;  ///< fp32 [ceil(blocks / 256)]; undefined without double quantization
    float nested_offset = 0.0F;

    bool double_quantized() const { return nested_absmax.defined(); }
    std::int64_t bytes() const;
    QuantizedTensor to(at::Device device) const;
};

/// Quantizes a matrix straight from its (mapped) bytes, F32, F16 or BF16. A value that is not finite is a
/// CheckpointError that names the tensor and the place. On a GPU its kernels do the work: the same bytes.
QuantizedTensor quantize(const io::TensorView& tensor, const QuantConfig& config,
                         at::Device device = at::kCPU);

/// A copy of a matrix that bitsandbytes' format holds. Scales that are not finite are a CheckpointError.
/// Where the file's map of nested scales is not ours to the bit, the scales are decoded with the file's and
/// kept in fp32.
QuantizedTensor load_quantized(const BnbMatrix& matrix);

/// Rows [first, first + count) in `dtype` (fp32, bf16, fp16), [count, columns]: fp32 code * absmax rounded
/// once.
at::Tensor dequantize_rows(const QuantizedTensor& tensor, std::int64_t first, std::int64_t count,
                           at::ScalarType dtype);
/// x [n, columns] times the transposed matrix, [n, rows], for a few rows x, fp32 on the CPU, of `dtype` on a
/// device; weights as `dtype` holds them.
at::Tensor multiply_few(const QuantizedTensor& tensor, const at::Tensor& x, at::ScalarType dtype);
/// The same with a contiguous matrix that is not quantized, on the CPU.
at::Tensor multiply_few(const at::Tensor& weight, const at::Tensor& x);
/// As many rows as `out` [.., columns] has, in its dtype; its rows are contiguous.
void dequantize_rows_into(const QuantizedTensor& tensor, std::int64_t first, at::Tensor& out);
/// All of it into `out` [rows, columns + k], contiguous, with `appended` [rows, k] fp32 behind each row. On a
/// device alone.
void dequantize_extended_into(const QuantizedTensor& tensor, const at::Tensor& appended, at::Tensor& out);

}  // namespace qlora::quant
