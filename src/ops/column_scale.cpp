#include "column_scale.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "qlora/kernels/elementwise.h"
#include "qlora/ops/device.h"
#include "qlora/ops/gemm.h"

namespace qlora::ops {
namespace {

/// Rows of adjacent values.
at::Tensor with_whole_rows(const at::Tensor& x) {
    return !x.defined() || (x.stride(1) == 1 && x.stride(0) >= x.size(1)) ? x : x.contiguous();
}

const void* data_of(const at::Tensor& x) {
    return x.defined() ? x.const_data_ptr() : nullptr;
}
const float* floats_of(const at::Tensor& x) {
    return x.defined() ? x.const_data_ptr<float>() : nullptr;
}
std::int64_t stride_of(const at::Tensor& x) {
    return x.defined() ? x.stride(0) : 0;
}

void scale_on_device(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& bias,
                     const at::Tensor& start, at::Tensor& y) {
    device_kernels(x)->scale_columns({.x = data_of(x),
                                      .x_stride = x.stride(0),
                                      .scale = floats_of(scale),
                                      .bias = floats_of(bias),
                                      .start = data_of(start),
                                      .start_stride = stride_of(start),
                                      .rows = x.size(0),
                                      .size = x.size(1),
                                      .y = y.mutable_data_ptr(),
                                      .y_stride = y.stride(0),
                                      .type = float_type(x.scalar_type())},
                                     current_stream(x));
}

void scale_fp32(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& bias, const at::Tensor& start,
                at::Tensor& y) {
    const std::int64_t size = x.size(1);
    const std::int64_t grain = std::max<std::int64_t>(1, (1 << 14) / std::max<std::int64_t>(1, size));
    at::parallel_for(0, x.size(0), grain, [&](std::int64_t begin, std::int64_t end) {
        kernels::cpu::scale_columns({.data = floats_of(x) + begin * x.stride(0),
                                     .count = end - begin,
                                     .size = size,
                                     .stride = x.stride(0)},
                                    floats_of(scale), floats_of(bias),
                                    start.defined() ? floats_of(start) + begin * start.stride(0) : nullptr,
                                    stride_of(start), y.mutable_data_ptr<float>() + begin * y.stride(0),
                                    y.stride(0));
    });
}

void products_fp32(const at::Tensor& g, const at::Tensor& x, const at::Tensor& scale, at::Tensor& scaled,
                   at::Tensor& sums) {
    constexpr std::int64_t kLeastColumns = 64;
    const std::int64_t columns = g.size(1);
    const at::Tensor wide = at::zeros({columns}, at::kDouble);
    double* totals = wide.mutable_data_ptr<double>();
    // By columns: a sum over rows is one thread's.
    at::parallel_for(0, columns, kLeastColumns, [&](std::int64_t begin, std::int64_t end) {
        kernels::cpu::scale_columns_backward(
            {.data = floats_of(g) + begin, .count = g.size(0), .size = end - begin, .stride = g.stride(0)},
            floats_of(x) + begin, x.stride(0), scale.defined() ? floats_of(scale) + begin : nullptr,
            scaled.defined() ? scaled.mutable_data_ptr<float>() + begin : nullptr, stride_of(scaled),
            totals + begin);
    });
    sums.copy_(wide);
}

}  // namespace

at::Tensor scale_columns(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& bias,
                         const at::Tensor& start, at::Tensor y) {
    const at::Tensor from = with_whole_rows(x), begin = with_whole_rows(start);
    if (!y.defined()) y = at::empty(x.sizes(), x.options());
    TORCH_CHECK(y.stride(1) == 1 && y.scalar_type() == x.scalar_type(),
                "scaled columns go to rows of adjacent values of their own type");
    if (device_kernels(x) != nullptr) {
        scale_on_device(from, scale, bias, begin, y);
    } else if (is_fp32(x)) {
        scale_fp32(from, scale, bias, begin, y);
    } else {
        at::Tensor wide = at::empty(x.sizes(), x.options().dtype(at::kFloat));
        scale_fp32(fp32(from), scale, bias, begin.defined() ? fp32(begin) : begin, wide);
        y.copy_(wide);
    }
    return y;
}

at::Tensor column_products(const at::Tensor& g, const at::Tensor& x, const at::Tensor& scale,
                           at::Tensor scaled) {
    const at::Tensor left = with_whole_rows(g), right = with_whole_rows(x);
    at::Tensor sums = at::empty({g.size(1)}, g.options().dtype(at::kFloat));
    if (device_kernels(g) != nullptr) {
        const std::int64_t parts = kernels::column_sum_parts(g.size(0));
        const at::Tensor work = at::empty({parts, g.size(1)}, sums.options());
        device_kernels(g)->scale_columns_backward(
            {.g = data_of(left),
             .g_stride = left.stride(0),
             .x = data_of(right),
             .x_stride = right.stride(0),
             .scale = floats_of(scale),
             .rows = g.size(0),
             .size = g.size(1),
             .scaled = scaled.defined() ? scaled.mutable_data_ptr() : nullptr,
             .scaled_stride = stride_of(scaled),
             .parts = work.mutable_data_ptr<float>(),
             .sums = sums.mutable_data_ptr<float>(),
             .type = float_type(g.scalar_type())},
            current_stream(g));
        return sums;
    }
    if (!scaled.defined() || is_fp32(scaled)) {
        products_fp32(fp32(left), fp32(right), scale, scaled, sums);
        return sums;
    }
    at::Tensor wide = at::empty(scaled.sizes(), scaled.options().dtype(at::kFloat));
    products_fp32(fp32(left), fp32(right), scale, wide, sums);
    scaled.copy_(wide);
    return sums;
}

}  // namespace qlora::ops
