#pragma once

#include <cstdint>

#include "qlora/kernels/float16.h"
#include "qlora/kernels/layer_kinds.h"

/// Fused fp32 operations of the training step on rows of memory. None starts a thread: rows are independent,
/// so a caller splits the work by rows and a split gives the same bits as the whole. The AVX2 and the
/// portable path give the same bits. Buffers need not be aligned; unless said otherwise rows are contiguous
/// and buffers do not overlap. NaN and infinity pass through to the results that depend on them.
namespace qlora::kernels::cpu {

/// What the result of a norm is added to: y = rows + multiplier * norm. `rows` like y, or null: y is the
/// norm.
struct NormAddend {
    const float* rows = nullptr;
    float multiplier = 1.0f;
};

/// inverse[row] = 1 / sqrt(mean(x^2) + eps); y = weight * (x * inverse). x, y [rows, size], weight [size].
/// Squares are fp32 values, as in transformers: where one overflows (|x| above 1.8e19) inverse and the row
/// are 0.
void rms_norm(const float* x, const float* weight, double eps, int64_t rows, int64_t size, float* y,
              float* inverse, NormAddend addend = {});
/// y of the same bits again, from the saved inverse.
void rms_norm_recompute(const float* x, const float* weight, const float* inverse, int64_t rows, int64_t size,
                        float* y);
/// With n = x * inverse and g = dy * weight: dx = inverse * (g - n * mean(g * n)), plus `residual` [rows,
/// size] (the gradient that reached x directly) unless null. dx may be `residual` itself.
void rms_norm_backward(const float* dy, const float* x, const float* weight, const float* inverse,
                       const float* residual, int64_t rows, int64_t size, float* dx);

/// mean[row] of x, and inverse[row] = 1 / sqrt(variance + eps), the variance summed of squared differences
/// from the mean; y = weight * ((x - mean) * inverse) + bias. x, y [rows, size]; weight, bias [size], bias
/// may be null.
void layer_norm(const float* x, const float* weight, const float* bias, double eps, int64_t rows,
                int64_t size, float* y, float* mean, float* inverse);
/// y of the same bits again, from the saved statistics.
void layer_norm_recompute(const float* x, const float* weight, const float* bias, const float* mean,
                          const float* inverse, int64_t rows, int64_t size, float* y);
/// With n = (x - mean) * inverse and g = dy * weight: dx = inverse * (g - mean(g) - n * mean(g * n)), plus
/// `residual` as in rms_norm_backward. dx may be `residual` itself.
void layer_norm_backward(const float* dy, const float* x, const float* weight, const float* mean,
                         const float* inverse, const float* residual, int64_t rows, int64_t size, float* dx);

/// Rows [tokens, row_stride] of which `heads` heads side by side turn, and as many again from each further
/// multiple of `group_stride` values on, `groups` times in all.
struct RopeRows {
    int64_t tokens, heads, head_dim;
    int64_t dims;  ///< of each head that turn: the first ones
    int64_t row_stride;
    int64_t groups = 1, group_stride = 0;
    bool pairs = false;  ///< dimension 2i turns with 2i + 1; else i with i + dims / 2
};
/// Rotates in place; cos, sin [tokens, dims / 2]. `direction` +1: forward, -1: the transposed rotation, for
/// gradients.
void rope(float* x, const float* cos, const float* sin, const RopeRows& rows, int direction);

/// out [rows, size] = act(gate) * up of `entered` [rows, 2 * size], of whose rows the first half is gate; or
/// act(entered [rows, size]) where not gated. Infinite and large arguments give what the formula gives in
/// exact arithmetic (no NaN from inf / inf).
void activate(Activation kind, bool gated, const float* entered, int64_t rows, int64_t size, float* out);
/// d_entered, like `entered`, from d_out [rows, size]; also writes `out` again (same bits) unless null.
void activate_backward(Activation kind, bool gated, const float* d_out, const float* entered, int64_t rows,
                       int64_t size, float* d_entered, float* out);

/// logits [n] as `curve` has them, in place. `tanhs` [n], unless null, keeps what the gradient of a softcap
/// needs.
void curve_logits(float* logits, int64_t n, LogitCurve curve, float* tanhs);
/// Gradients [n] of the curved logits become those of the logits before; `tanhs` may be null without softcap.
void curve_gradients(float* gradients, const float* tanhs, int64_t n, LogitCurve curve);

/// logits [rows, columns] become softmax - onehot(target); losses[row] = logsumexp - logit of the target, the
/// sum of exponentials accumulated so that its relative error stays below 1e-6 for 200,000 columns.
void softmax_cross_entropy(float* logits, const int64_t* targets, int64_t rows, int64_t columns,
                           double* losses);
/// Log probability of each target, and whether it is the most likely column (the first of equal ones wins).
/// Leaves logits as they are.
void score_rows(const float* logits, const int64_t* targets, int64_t rows, int64_t columns, float* logprobs,
                bool* correct);

/// Rows of `size` values, `stride` values apart.
struct Rows {
    const float* data;
    int64_t count, size, stride;
};
/// y[row * y_stride] = dot product of row `row` of x with w [size]: eight lanes of four sums each, whose
/// order depends on size alone.
void dot_rows(Rows x, const float* w, float* y, int64_t y_stride);
/// y [size] = the rows of x, each times its weight, added in the order of the rows; 0 of no rows.
void weigh_rows(Rows x, const float* weights, float* y);
/// y = (scale * x + bias) + start, columns each with a factor of its own: scale, bias [x.size], bias may be
/// null; start and y like x, each with a stride of its own, start null: (scale * x + bias) alone. y may be x
/// or start.
void scale_columns(Rows x, const float* scale, const float* bias, const float* start, int64_t start_stride,
                   float* y, int64_t y_stride);
/// sums [g.size] += the columns' sums of g * x, of four rows in fp32, then in double; scaled = scale * g
/// unless null. x and scaled like g; scaled may be g. A split by columns gives the same bits.
void scale_columns_backward(Rows g, const float* x, int64_t x_stride, const float* scale, float* scaled,
                            int64_t scaled_stride, double* sums);
/// out[i] = value first + i of `values`, which need not be aligned; exact, a signaling NaN of
/// 16 bits becomes quiet.
void widen(const void* values, FloatType type, int64_t first, int64_t count, float* out);

/// Columns of attention scores that a query row sees: [first, last) of row r is [max(0, last - window), last)
/// with last = limit + r; window 0 = no lower end.
struct VisibleColumns {
    int64_t limit;   ///< last column + 1 that row 0 sees; at least 1
    int64_t window;  ///< 0 = all
};
/// What a raw score counts: scale * score, with a softcap softcap * tanh(scale * score / softcap).
struct ScoreRule {
    float scale;
    float softcap = 0.0f;  ///< 0: none
};
/// scores [rows, columns] (row stride `stride`) become the softmax of what they count over the visible
/// columns and 0 elsewhere; logsumexp[row * logsumexp_stride] of what the visible ones count.
void attention_softmax(float* scores, int64_t rows, int64_t columns, int64_t stride, ScoreRule rule,
                       VisibleColumns visible, float* logsumexp, int64_t logsumexp_stride);
/// From raw scores and dp (the gradient of the probabilities, same layout): scores become the probabilities p
/// and dp becomes the gradient of the raw scores, slope * p * (dp - delta[row]) with the slope of what a
/// score counts; both 0 where not visible.
void attention_softmax_backward(float* scores, float* dp, int64_t rows, int64_t columns, int64_t stride,
                                ScoreRule rule, VisibleColumns visible, const float* logsumexp,
                                int64_t logsumexp_stride, const float* delta, int64_t delta_stride);

}  // namespace qlora::kernels::cpu
