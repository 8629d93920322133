#pragma once

#include <cstdint>

#include "qlora/kernels/float16.h"
#include "qlora/kernels/kernel_backend.h"
#include "qlora/kernels/layer_kinds.h"

/// The elementwise work of a decoder layer on a GPU, the counterpart of elementwise.h. Tensors are row-major,
/// of the element type given and aligned to it; rows may lie `.._stride` elements apart. Arithmetic is fp32;
/// values are rounded to the type where transformers rounds them. Aligned rows are read and written in
/// 16-byte pieces, with the same result. Errors and streams as in cuda_kernels.h.
namespace qlora::kernels {

struct RmsNormParams {
    const void* x;         ///< [rows, size]
    const void* residual;  ///< [rows, size], added to x first, or null
    void* sum;             ///< [rows, size]: x + residual rounded, what is normed; null without residual
    const float* weight;   ///< [size]
    double eps;
    int64_t rows, size;
    void* y;  ///< [rows, size], rows y_stride apart
    int64_t y_stride;
    float* inverse;  ///< [rows]: 1 / sqrt(mean(x^2) + eps)
    FloatType type;
    NormKind kind = NormKind::kRms;  ///< or kRmsLate
    const void* added = nullptr;     ///< [rows, size]: y = added + multiplier * norm, or null
    float multiplier = 1.0f;
};

/// y again from the saved statistics, the same bits.
struct RmsNormRecomputeParams {
    const void* x;
    const float* weight;
    const float* inverse;
    int64_t rows, size;
    void* y;
    int64_t y_stride;
    FloatType type;
    NormKind kind = NormKind::kRms;
};

struct RmsNormBackwardParams {
    const void* dy;  ///< [rows, size]
    const void* x;
    const float* weight;
    const float* inverse;
    const void* residual;  ///< [rows, size], the gradient that reached x directly, or null
    int64_t rows, size;
    void* dx;  ///< may be `residual` or `dy`
    FloatType type;
};

struct LayerNormParams {
    const void* x;         ///< [rows, size]
    const void* residual;  ///< [rows, size], added to x first, or null
    void* sum;             ///< [rows, size]: x + residual rounded, what is normed; null without residual
    const float* weight;   ///< [size]
    const float* bias;     ///< [size], or null
    double eps;
    int64_t rows, size;
    void* y;  ///< [rows, size], rows y_stride apart
    int64_t y_stride;
    float* mean;     ///< [rows]
    float* inverse;  ///< [rows]: 1 / sqrt(variance(x) + eps)
    FloatType type;
};

/// y again from the saved statistics, the same bits.
struct LayerNormRecomputeParams {
    const void* x;
    const float* weight;
    const float* bias;
    const float* mean;
    const float* inverse;
    int64_t rows, size;
    void* y;
    int64_t y_stride;
    FloatType type;
};

struct LayerNormBackwardParams {
    const void* dy;  ///< [rows, size]
    const void* x;
    const float* weight;
    const float* mean;
    const float* inverse;
    const void* residual;  ///< [rows, size], the gradient that reached x directly, or null
    int64_t rows, size;
    void* dx;  ///< may be `residual` or `dy`
    FloatType type;
};

struct RopeParams {
    void* x;  ///< [tokens, row_stride], turned in place: of each row `heads` heads side by side, and as
              ///< many again from each further multiple of group_stride on, `groups` times in all
    const void* cos;  ///< [tokens, dims / 2] of `angle_type`, the angles of each token's own position
    const void* sin;
    int64_t tokens, heads, head_dim;
    int64_t dims;  ///< of each head that turn: the first ones
    int64_t row_stride;
    int direction;  ///< +1 forward, -1 the transposed rotation, for gradients
    FloatType type;
    FloatType angle_type;  ///< `type`, to which products are rounded too, or fp32: only results are
    bool pairs = false;    ///< dimension 2i turns with 2i + 1; else i with i + dims / 2
    int64_t groups = 1, group_stride = 0;
};

struct ActivateParams {
    Activation kind;
    bool gated;
    const void* entered;  ///< [rows, 2 * size], gate first, or [rows, size] where not gated
    int64_t rows, size;
    void* y;  ///< [rows, size], rows y_stride apart
    int64_t y_stride;
    FloatType type;
};

struct ActivateBackwardParams {
    Activation kind;
    bool gated;
    const void* dy;  ///< [rows, size]
    const void* entered;
    int64_t rows, size;
    void* d_entered;  ///< like `entered`, and may be it
    void* y;          ///< the forward result again, the same bits, rows y_stride apart; or null
    int64_t y_stride;
    FloatType type;
};

struct DropoutParams {
    const void* x;  ///< [n]
    int64_t n;
    uint64_t seed;
    uint32_t step, site;
    float p;
    void* y;  ///< [n]; may be x
    FloatType type;
};

struct ScaleColumnsParams {
    const void* x;  ///< [rows, size], rows x_stride apart
    int64_t x_stride;
    const float* scale;  ///< [size]
    const float* bias;   ///< [size], or null
    const void* start;   ///< [rows, size], rows start_stride apart, or null
    int64_t start_stride;
    int64_t rows, size;
    void* y;  ///< [rows, size], rows y_stride apart; may be x or start
    int64_t y_stride;
    FloatType type;
};

/// Rows whose products one CUDA block adds up.
inline constexpr int64_t kColumnSumRows = 256;
constexpr int64_t column_sum_parts(int64_t rows) {
    return (rows + kColumnSumRows - 1) / kColumnSumRows;
}

struct ScaleColumnsBackwardParams {
    const void* g;  ///< [rows, size], rows g_stride apart
    int64_t g_stride;
    const void* x;  ///< [rows, size], rows x_stride apart
    int64_t x_stride;
    const float* scale;  ///< [size]
    int64_t rows, size;
    void* scaled;  ///< [rows, size], rows scaled_stride apart, or null; may be g
    int64_t scaled_stride;
    float* parts;  ///< [column_sum_parts(rows), size], to work in
    float* sums;   ///< [size]
    FloatType type;
};

}  // namespace qlora::kernels

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

/// y = round(round(weight) * round(x * inverse)), as transformers' LlamaRMSNorm, or, kRmsLate, round(weight *
/// (x * inverse)). The sum of squares has a fixed order that `size` alone decides; where it overflows fp32
/// inverse and the row are 0. With `added` the product and the sum are rounded too.
void rms_norm(const RmsNormParams& params, Stream stream);
void rms_norm_recompute(const RmsNormRecomputeParams& params, Stream stream);
/// With n = x * inverse and g = dy * weight in fp32: dx = round(inverse * (g - n * mean(g * n))), plus the
/// residual, rounded once more where the type is not fp32.
void rms_norm_backward(const RmsNormBackwardParams& params, Stream stream);

/// y = round(weight * ((x - mean) * inverse) + bias), the mean rounded to fp32 and the variance summed of
/// differences from it; the sums as in rms_norm.
void layer_norm(const LayerNormParams& params, Stream stream);
void layer_norm_recompute(const LayerNormRecomputeParams& params, Stream stream);
/// With n = (x - mean) * inverse and g = dy * weight in fp32: dx = round(inverse * (g - mean(g) - n * mean(g
/// * n))), plus the residual, rounded once more where the type is not fp32.
void layer_norm_backward(const LayerNormBackwardParams& params, Stream stream);

/// transformers' apply_rotary_pos_emb, each type's rounding included (RopeParams::angle_type).
void rope(const RopeParams& params, Stream stream);

/// y = round(round(act(gate)) * up), or round(act(x)); for infinite and large arguments as elementwise.h
/// says.
void activate(const ActivateParams& params, Stream stream);
/// d_up = round(dy * round(act(gate))), d_gate = round(round(dy * up) * act'(gate)); or dx = round(dy *
/// act'(x)).
void activate_backward(const ActivateBackwardParams& params, Stream stream);

/// y = x * (1 / (1 - p)) where dropout_keep (philox.h) of the element's index, else 0: the bits of the CPU.
/// p is in [0, 1].
void dropout(const DropoutParams& params, Stream stream);

/// y = round((scale * x + bias) + start).
void scale_columns(const ScaleColumnsParams& params, Stream stream);
/// scaled = round(scale * g), and the columns' sums of g * x: 32 threads add every 32nd of 256 rows, their
/// sums are added one after another, then those of the blocks of 256 rows in double. The order depends on
/// `rows` alone.
void scale_columns_backward(const ScaleColumnsBackwardParams& params, Stream stream);

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
