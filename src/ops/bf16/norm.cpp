#include <ATen/TensorOperators.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/rsqrt.h>

#include "../if_defined.h"
#include "../norm_backends.h"

namespace qlora::ops::in_bf16 {

using kernels::NormKind;

namespace {

NormResult plain_norm(const at::Tensor& x, const Norm& norm) {
    if (norm.kind == NormKind::kLayer) {
        const auto [y, mean, inverse] =
            at::native_layer_norm(x, {x.size(1)}, norm.weight, if_defined(norm.bias), norm.eps);
        return {.y = y, .statistics = {.inverse = inverse.flatten(), .mean = mean.flatten()}, .sum = {}};
    }
    const at::Tensor wide = x.to(at::kFloat);
    const NormStatistics statistics{.inverse = at::rsqrt(wide.pow(2).mean(-1).add_(norm.eps)), .mean = {}};
    return {.y = in_bf16::norm_recompute(x, norm, statistics), .statistics = statistics, .sum = {}};
}

}  // namespace

NormResult norm_forward(const at::Tensor& x, const Norm& norm, const NormTerms& terms) {
    const bool adds_first = terms.residual.defined();
    const at::Tensor sum = adds_first ? x + terms.residual : x;
    NormResult out = plain_norm(sum, norm);
    if (adds_first) out.sum = sum;
    if (terms.added.defined()) out.y = terms.added + out.y * terms.multiplier;
    return out;
}

at::Tensor norm_recompute(const at::Tensor& x, const Norm& norm, const NormStatistics& statistics) {
    if (norm.kind == NormKind::kLayer) return plain_norm(x, norm).y;
    const at::Tensor n = x.to(at::kFloat) * statistics.inverse.unsqueeze(1);
    if (norm.kind == NormKind::kRmsLate) return (norm.weight * n).to(x.scalar_type());
    return n.to(x.scalar_type()).mul(norm.weight.to(x.scalar_type()));
}

at::Tensor norm_backward(const at::Tensor& dy, const at::Tensor& x, const Norm& norm,
                         const NormStatistics& statistics, const at::Tensor& residual) {
    // With n = (x - mean) * inverse and g = dy * weight: dx = inverse * (g - n * mean(g * n)), of kLayer also
    // less mean(g); the RMS kinds have mean 0.
    const at::Tensor inverse = statistics.inverse.unsqueeze(1);
    at::Tensor n = x.to(at::kFloat);
    if (statistics.mean.defined()) n = n - statistics.mean.unsqueeze(1);
    n = n * inverse;
    at::Tensor g = dy.to(at::kFloat) * norm.weight;
    const at::Tensor projection = (g * n).mean(-1, true);
    if (statistics.mean.defined()) g = g - g.mean(-1, true);
    const at::Tensor dx = g.addcmul_(n, projection, -1).mul_(inverse).to(x.scalar_type());
    return residual.defined() ? residual + dx : dx;
}

}  // namespace qlora::ops::in_bf16
