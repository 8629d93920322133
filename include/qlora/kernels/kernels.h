#pragma once

#include <cstdint>

#include "qlora/kernels/adamw_math.h"
#include "qlora/kernels/float16.h"

/// Kernels on pointers and sizes. None starts a thread: a caller splits the work by the ranges, and a split
/// gives the same bits as the whole. Impossible arguments (a blocksize that is not a power of two in 32 ..
/// 4096, a range outside the tensor) throw std::invalid_argument. Float buffers of tensors need not be
/// aligned.
namespace qlora::kernels {

/// Input and results of NF4 quantization of n values; the layout is in block_layout.h.
struct QuantizeNf4Params {
    const void* input;  ///< [n] of `input_type`
    FloatType input_type;
    int64_t n;
    int blocksize;
    uint8_t* packed;  ///< [packed_bytes(n)]
    float* absmax;    ///< [block_count(n, blocksize)]
};

/// Rows up to which a product reads a weight faster as it is stored than its dense form; a GPU's kernel takes
/// no more at once.
inline constexpr int64_t kFewRows = 8;

/// Scales of NF4 blocks: plain fp32 values, or 8-bit codes that are decoded as they are used (double
/// quantization).
struct AbsmaxView {
    const float* values = nullptr;         ///< [blocks]; if null, the codes below
    const uint8_t* codes = nullptr;        ///< [blocks], into the signed dynamic map
    const float* nested_absmax = nullptr;  ///< [nested_block_count(blocks)]
    float offset = 0.0f;
};

/// A quantized tensor to read.
struct Nf4View {
    const uint8_t* packed;
    AbsmaxView absmax;
    int64_t n;
    int blocksize;
};

/// Scales to quantize to 8 bits.
struct QuantizeAbsmaxParams {
    const float* absmax;  ///< [blocks]
    int64_t blocks;
    float offset;          ///< of `absmax_offset`
    uint8_t* codes;        ///< [blocks]
    float* nested_absmax;  ///< [nested_block_count(blocks)]
};

/// A trained tensor with 8-bit moments in blocks of kAdamwBlocksize (adamw_8bit_math.h). Codes and scales
/// that are all zero are moments of zero.
struct Adamw8bitParams {
    float* p;          ///< [n]
    const float* g;    ///< [n]
    uint8_t* m_codes;  ///< [n], into the signed dynamic map
    uint8_t* v_codes;  ///< [n], into the unsigned one
    float* m_absmax;   ///< [ceil(n / kAdamwBlocksize)]
    float* v_absmax;
    int64_t n;
};

namespace cpu {

/// Blocks [block_begin, block_end): absmax in fp32, x = v * (1.0f / absmax), nearest code (encode_nf4). All
/// of it in IEEE arithmetic without flush to zero; where 1.0f / absmax overflows (absmax at most 2^-128)
/// every non-zero value therefore becomes -absmax or absmax. Returns the index of the first non-finite input
/// value, or -1: then what was written to that block and the ones after it is unspecified.
int64_t quantize_blockwise_nf4(const QuantizeNf4Params& params, int64_t block_begin, int64_t block_end);
int64_t quantize_blockwise_nf4(const QuantizeNf4Params& params);

/// The mean of all scales in the order of fixed_order_sum, divided in double and rounded once; 0 for none.
float absmax_offset(const float* absmax, int64_t blocks);

/// Nested blocks [nested_begin, nested_end): d = absmax - offset, quantized like a tensor of blocksize 256
/// with the signed dynamic map. The scales are finite.
void quantize_absmax(const QuantizeAbsmaxParams& params, int64_t nested_begin, int64_t nested_end);

/// Everything at once: returns the offset.
float quantize_absmax(const float* absmax, int64_t blocks, uint8_t* codes, float* nested_absmax);

/// Scales of blocks [block_begin, block_end); `out[0]` is the first of them.
void dequantize_absmax(const AbsmaxView& absmax, int64_t block_begin, int64_t block_end, float* out);

/// Values [begin, end) of the tensor, any range: code * absmax in fp32, rounded once to `type`. `out` is
/// where the value `begin` goes.
void dequantize_blockwise_nf4(const Nf4View& view, int64_t begin, int64_t end, void* out, FloatType type);
void dequantize_blockwise_nf4(const Nf4View& view, void* out, FloatType type);

/// y[rows, outputs] = x[rows, inputs] * weight^T for a few rows; the weight is [outputs, inputs], x and y are
/// fp32 and contiguous.
struct Matvec {
    FloatType type;  ///< of the weight's values
    int64_t outputs;
    int64_t inputs;
    const float* x;
    int64_t rows;
    float* y;
};
/// Outputs [begin, end) straight from the codes, several times faster than reading dequantized weights: each
/// weight is what dequantize_blockwise_nf4 gives in `type`; sums as in dot_rows (elementwise.h).
void matvec_nf4(const Nf4View& weight, const Matvec& product, int64_t begin, int64_t end);
/// The same with a weight of values, at any address.
void matvec_dense(const void* weight, const Matvec& product, int64_t begin, int64_t end);

/// One AdamW step on n parameters: p, m and v change, g does not. See adamw_update.
void adamw_step(float* p, const float* g, float* m, float* v, int64_t n, const AdamwSettings& settings);

/// The same with 8-bit moments, for blocks [block_begin, block_end); the gradients are finite. See
/// adamw_8bit_update.
void adamw_8bit_step(const Adamw8bitParams& params, int64_t block_begin, int64_t block_end,
                     const AdamwSettings& settings);
void adamw_8bit_step(const Adamw8bitParams& params, const AdamwSettings& settings);

/// Sum of squares in double, in the order of fixed_order_sum. Squares of finite floats cannot overflow it, so
/// the sum is finite exactly when every value is.
double sum_of_squares(const float* values, int64_t n);

}  // namespace cpu
}  // namespace qlora::kernels
