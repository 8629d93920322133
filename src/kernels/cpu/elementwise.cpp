#include "qlora/kernels/elementwise.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "elementwise_path.h"
#include "paths.h"
#include "qlora/kernels/activation_math.h"

namespace qlora::kernels::cpu {

namespace {

const ElementwisePath& path() {
    if constexpr (kHasAvx2Code) {
        if (runs_avx2()) return avx2::kElementwise;
    }
    return portable::kElementwise;
}

void require(bool holds, const char* fault) {
    if (!holds) throw std::invalid_argument(fault);
}

void check_targets(const char* function, const int64_t* targets, int64_t rows, int64_t columns) {
    if (rows < 0 || columns < 1) {
        throw std::invalid_argument(std::string(function) + ": rows count from 0, columns from 1");
    }
    for (int64_t row = 0; row < rows; ++row) {
        if (targets[row] >= 0 && targets[row] < columns) continue;
        throw std::invalid_argument(std::string(function) + ": target " + std::to_string(targets[row]) +
                                    " of row " + std::to_string(row) + " is outside [0, " +
                                    std::to_string(columns) + ")");
    }
}

void check_activation(const char* function, Activation kind, int64_t rows, int64_t size) {
    if (rows < 0 || size < 0) throw std::invalid_argument(std::string(function) + ": a size is negative");
    if (!with_activation_form(kind, true, [](auto) {})) {
        throw std::invalid_argument(std::string(function) + ": an activation that does not exist");
    }
}

void check_attention(const char* function, int64_t rows, int64_t columns, int64_t stride,
                     VisibleColumns visible, bool strides_are_positive) {
    const auto check = [&](bool holds, const char* fault) {
        if (!holds) throw std::invalid_argument(std::string(function) + ": " + fault);
    };
    check(rows >= 0 && columns >= 0, "a size is negative");
    check(stride >= columns, "a row is longer than the row stride");
    check(strides_are_positive, "a stride of logsumexp or delta is below 1");
    check(visible.limit >= 1 && visible.window >= 0, "the limit counts from 1, the window from 0");
    check(rows == 0 || visible.limit <= columns - (rows - 1), "the last row sees more than all columns");
}

void require_softcap(ScoreRule rule) {
    require(rule.softcap >= 0.0f && std::isfinite(rule.softcap),
            "attention_softmax: the softcap is negative or not finite");
}

}  // namespace

void rms_norm(const float* x, const float* weight, double eps, int64_t rows, int64_t size, float* y,
              float* inverse, NormAddend addend) {
    require(rows >= 0 && size >= 1, "rms_norm: rows count from 0, sizes from 1");
    require(eps >= 0.0 && std::isfinite(eps), "rms_norm: eps is negative or not finite");
    path().rms_norm(x, weight, eps, rows, size, y, inverse, addend);
}

void dot_rows(Rows x, const float* w, float* y, int64_t y_stride) {
    require(x.count >= 0 && x.size >= 0 && y_stride >= 1, "dot_rows: sizes count from 0, the stride from 1");
    path().dot_rows(x, w, y, y_stride);
}

void weigh_rows(Rows x, const float* weights, float* y) {
    require(x.count >= 0 && x.size >= 0, "weigh_rows: a size is negative");
    path().weigh_rows(x, weights, y);
}

void scale_columns(Rows x, const float* scale, const float* bias, const float* start, int64_t start_stride,
                   float* y, int64_t y_stride) {
    require(x.count >= 0 && x.size >= 0, "scale_columns: a size is negative");
    path().scale_columns(x, scale, bias, start, start_stride, y, y_stride);
}

void scale_columns_backward(Rows g, const float* x, int64_t x_stride, const float* scale, float* scaled,
                            int64_t scaled_stride, double* sums) {
    require(g.count >= 0 && g.size >= 0, "scale_columns_backward: a size is negative");
    path().scale_columns_backward(g, x, x_stride, scale, scaled, scaled_stride, sums);
}

void widen(const void* values, FloatType type, int64_t first, int64_t count, float* out) {
    require(first >= 0 && count >= 0, "widen: a size is negative");
    path().widen(values, type, first, count, out);
}

void rms_norm_recompute(const float* x, const float* weight, const float* inverse, int64_t rows, int64_t size,
                        float* y) {
    require(rows >= 0 && size >= 1, "rms_norm_recompute: rows count from 0, sizes from 1");
    path().rms_norm_recompute(x, weight, inverse, rows, size, y);
}

void rms_norm_backward(const float* dy, const float* x, const float* weight, const float* inverse,
                       const float* residual, int64_t rows, int64_t size, float* dx) {
    require(rows >= 0 && size >= 1, "rms_norm_backward: rows count from 0, sizes from 1");
    path().rms_norm_backward(dy, x, weight, inverse, residual, rows, size, dx);
}

void layer_norm(const float* x, const float* weight, const float* bias, double eps, int64_t rows,
                int64_t size, float* y, float* mean, float* inverse) {
    require(rows >= 0 && size >= 1, "layer_norm: rows count from 0, sizes from 1");
    require(eps >= 0.0 && std::isfinite(eps), "layer_norm: eps is negative or not finite");
    path().layer_norm(x, weight, bias, eps, rows, size, y, mean, inverse);
}

void layer_norm_recompute(const float* x, const float* weight, const float* bias, const float* mean,
                          const float* inverse, int64_t rows, int64_t size, float* y) {
    require(rows >= 0 && size >= 1, "layer_norm_recompute: rows count from 0, sizes from 1");
    path().layer_norm_recompute(x, weight, bias, mean, inverse, rows, size, y);
}

void layer_norm_backward(const float* dy, const float* x, const float* weight, const float* mean,
                         const float* inverse, const float* residual, int64_t rows, int64_t size, float* dx) {
    require(rows >= 0 && size >= 1, "layer_norm_backward: rows count from 0, sizes from 1");
    path().layer_norm_backward(dy, x, weight, mean, inverse, residual, rows, size, dx);
}

void rope(float* x, const float* cos, const float* sin, const RopeRows& rows, int direction) {
    require(rows.tokens >= 0 && rows.heads >= 0 && rows.groups >= 0, "rope: a size is negative");
    require(rows.dims >= 2 && rows.dims % 2 == 0,
            "rope: the dimensions that turn must be even and at least 2");
    require(rows.dims <= rows.head_dim, "rope: more dimensions turn than a head has");
    const int64_t group = rows.groups > 1 ? rows.group_stride : rows.row_stride;
    require(group >= 0 && rows.heads <= group / rows.head_dim, "rope: the heads are longer than a row");
    require(rows.groups <= 1 || (group > 0 && rows.groups <= rows.row_stride / group),
            "rope: the groups of heads are longer than a row");
    require(direction == 1 || direction == -1, "rope: direction is neither 1 nor -1");
    path().rope(x, cos, sin, rows, direction);
}

void activate(Activation kind, bool gated, const float* entered, int64_t rows, int64_t size, float* out) {
    check_activation("activate", kind, rows, size);
    path().activate(kind, gated, entered, rows, size, out);
}

void activate_backward(Activation kind, bool gated, const float* d_out, const float* entered, int64_t rows,
                       int64_t size, float* d_entered, float* out) {
    check_activation("activate_backward", kind, rows, size);
    path().activate_backward(kind, gated, d_out, entered, rows, size, d_entered, out);
}

void curve_logits(float* logits, int64_t n, LogitCurve curve, float* tanhs) {
    require(n >= 0, "curve_logits: a size is negative");
    path().curve_logits(logits, n, curve, tanhs);
}

void curve_gradients(float* gradients, const float* tanhs, int64_t n, LogitCurve curve) {
    require(n >= 0, "curve_gradients: a size is negative");
    require(tanhs != nullptr || curve.softcap == 0.0f,
            "curve_gradients: a softcap's gradient needs its tanh");
    path().curve_gradients(gradients, tanhs, n, curve);
}

void softmax_cross_entropy(float* logits, const int64_t* targets, int64_t rows, int64_t columns,
                           double* losses) {
    check_targets("softmax_cross_entropy", targets, rows, columns);
    path().softmax_cross_entropy(logits, targets, rows, columns, losses);
}

void score_rows(const float* logits, const int64_t* targets, int64_t rows, int64_t columns, float* logprobs,
                bool* correct) {
    check_targets("score_rows", targets, rows, columns);
    path().score_rows(logits, targets, rows, columns, logprobs, correct);
}

void attention_softmax(float* scores, int64_t rows, int64_t columns, int64_t stride, ScoreRule rule,
                       VisibleColumns visible, float* logsumexp, int64_t logsumexp_stride) {
    require_softcap(rule);
    check_attention("attention_softmax", rows, columns, stride, visible, logsumexp_stride >= 1);
    path().attention_softmax(scores, rows, columns, stride, rule, visible, logsumexp, logsumexp_stride);
}

void attention_softmax_backward(float* scores, float* dp, int64_t rows, int64_t columns, int64_t stride,
                                ScoreRule rule, VisibleColumns visible, const float* logsumexp,
                                int64_t logsumexp_stride, const float* delta, int64_t delta_stride) {
    require_softcap(rule);
    check_attention("attention_softmax_backward", rows, columns, stride, visible,
                    logsumexp_stride >= 1 && delta_stride >= 1);
    path().attention_softmax_backward(scores, dp, rows, columns, stride, rule, visible, logsumexp,
                                      logsumexp_stride, delta, delta_stride);
}

}  // namespace qlora::kernels::cpu
