#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/native_layer_norm.h>

#include "../if_defined.h"
#include "../norm_backends.h"
#include "qlora/kernels/elementwise.h"

namespace qlora::ops::in_fp32 {
namespace {

namespace cpu = kernels::cpu;
using kernels::NormKind;

/// Rows that a thread takes at least.
std::int64_t grain(std::int64_t size) {
    return std::max<std::int64_t>(1, (1 << 14) / std::max<std::int64_t>(1, size));
}

}  // namespace

NormResult norm_forward(const at::Tensor& x, const Norm& norm, const NormTerms& terms) {
    if (terms.residual.defined()) {
        const at::Tensor sum = x + terms.residual;
        NormResult out = in_fp32::norm_forward(sum, norm, {});
        out.sum = sum;
        return out;
    }
    const std::int64_t rows = x.size(0), size = x.size(1);
    const at::Tensor source = x.contiguous();
    if (norm.kind == NormKind::kLayer) {
        const auto [y, mean, inverse] =
            at::native_layer_norm(source, {size}, norm.weight, if_defined(norm.bias), norm.eps);
        return {.y = y, .statistics = {.inverse = inverse.flatten(), .mean = mean.flatten()}, .sum = {}};
    }
    NormResult out{.y = at::empty_like(source),
                   .statistics = {.inverse = at::empty({rows}, source.options()), .mean = {}},
                   .sum = {}};
    const float* from = source.const_data_ptr<float>();
    const float* factors = norm.weight.const_data_ptr<float>();
    float* y = out.y.mutable_data_ptr<float>();
    float* inverse = out.statistics.inverse.mutable_data_ptr<float>();
    at::parallel_for(0, rows, grain(size), [&](std::int64_t begin, std::int64_t end) {
        cpu::rms_norm(from + begin * size, factors, norm.eps, end - begin, size, y + begin * size,
                      inverse + begin);
    });
    return out;
}

at::Tensor norm_recompute(const at::Tensor& x, const Norm& norm, const NormStatistics& statistics) {
    if (norm.kind == NormKind::kLayer) return in_fp32::norm_forward(x, norm, {}).y;
    const std::int64_t rows = x.size(0), size = x.size(1);
    const at::Tensor source = x.contiguous();
    at::Tensor y = at::empty_like(source);
    const float* from = source.const_data_ptr<float>();
    const float* factors = norm.weight.const_data_ptr<float>();
    const float* saved = statistics.inverse.const_data_ptr<float>();
    float* to = y.mutable_data_ptr<float>();
    at::parallel_for(0, rows, grain(size), [&](std::int64_t begin, std::int64_t end) {
        cpu::rms_norm_recompute(from + begin * size, factors, saved + begin, end - begin, size,
                                to + begin * size);
    });
    return y;
}

at::Tensor norm_backward(const at::Tensor& dy, const at::Tensor& x, const Norm& norm,
                         const NormStatistics& statistics, const at::Tensor& residual) {
    if (norm.kind == NormKind::kLayer) return in_bf16::norm_backward(dy, x, norm, statistics, residual);
    const std::int64_t rows = x.size(0), size = x.size(1);
    const at::Tensor g = dy.contiguous(), source = x.contiguous();
    const at::Tensor direct = residual.defined() ? residual.contiguous() : residual;
    at::Tensor dx = at::empty_like(source);
    const float* from = source.const_data_ptr<float>();
    const float* gradient = g.const_data_ptr<float>();
    const float* factors = norm.weight.const_data_ptr<float>();
    const float* saved = statistics.inverse.const_data_ptr<float>();
    const float* added = direct.defined() ? direct.const_data_ptr<float>() : nullptr;
    float* to = dx.mutable_data_ptr<float>();
    at::parallel_for(0, rows, grain(size), [&](std::int64_t begin, std::int64_t end) {
        const std::int64_t at = begin * size;
        cpu::rms_norm_backward(gradient + at, from + at, factors, saved + begin,
                               added == nullptr ? nullptr : added + at, end - begin, size, to + at);
    });
    return dx;
}

}  // namespace qlora::ops::in_fp32
