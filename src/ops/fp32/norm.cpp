#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "../norm_backends.h"
#include "qlora/kernels/elementwise.h"

namespace qlora::ops::in_fp32 {
namespace {

namespace cpu = kernels::cpu;
using kernels::NormKind;

/// Calls body(first row, rows) for shares of all rows.
template <class Body>
void for_shares_of_rows(const at::Tensor& x, const Body& body) {
    const std::int64_t size = std::max<std::int64_t>(1, x.size(1));
    const std::int64_t grain = std::max<std::int64_t>(1, (1 << 14) / size);
    at::parallel_for(0, x.size(0), grain,
                     [&](std::int64_t begin, std::int64_t end) { body(begin, end - begin); });
}

/// Where the rows from `row` on begin; null for an undefined tensor.
const float* rows_from(const at::Tensor& x, std::int64_t row) {
    return x.defined() ? x.const_data_ptr<float>() + row * x.stride(0) : nullptr;
}

const float* values(const at::Tensor& x) {
    return rows_from(x, 0);
}

NormResult plain_norm(const at::Tensor& source, const Norm& norm, const at::Tensor& added,
                      double multiplier) {
    const std::int64_t rows = source.size(0), size = source.size(1);
    NormResult out{.y = at::empty_like(source),
                   .statistics = {.inverse = at::empty({rows}, source.options()), .mean = {}},
                   .sum = {}};
    float* y = out.y.mutable_data_ptr<float>();
    float* inverse = out.statistics.inverse.mutable_data_ptr<float>();
    if (norm.kind == NormKind::kLayer) {
        out.statistics.mean = at::empty({rows}, source.options());
        float* mean = out.statistics.mean.mutable_data_ptr<float>();
        for_shares_of_rows(source, [&](std::int64_t first, std::int64_t count) {
            cpu::layer_norm(rows_from(source, first), values(norm.weight), values(norm.bias), norm.eps, count,
                            size, y + first * size, mean + first, inverse + first);
        });
        if (added.defined()) out.y = added + out.y * multiplier;
        return out;
    }
    for_shares_of_rows(source, [&](std::int64_t first, std::int64_t count) {
        cpu::rms_norm(rows_from(source, first), values(norm.weight), norm.eps, count, size, y + first * size,
                      inverse + first, {rows_from(added, first), static_cast<float>(multiplier)});
    });
    return out;
}

}  // namespace

NormResult norm_forward(const at::Tensor& x, const Norm& norm, const NormTerms& terms) {
    if (!terms.residual.defined()) {
        return plain_norm(x.contiguous(), norm, adjacent(terms.added), terms.multiplier);
    }
    const at::Tensor sum = x + terms.residual;
    NormResult out = plain_norm(sum.contiguous(), norm, adjacent(terms.added), terms.multiplier);
    out.sum = sum;
    return out;
}

at::Tensor norm_recompute(const at::Tensor& x, const Norm& norm, const NormStatistics& statistics) {
    const std::int64_t size = x.size(1);
    const at::Tensor source = x.contiguous();
    at::Tensor out = at::empty_like(source);
    float* y = out.mutable_data_ptr<float>();
    for_shares_of_rows(source, [&](std::int64_t first, std::int64_t count) {
        if (norm.kind == NormKind::kLayer) {
            cpu::layer_norm_recompute(rows_from(source, first), values(norm.weight), values(norm.bias),
                                      rows_from(statistics.mean, first), rows_from(statistics.inverse, first),
                                      count, size, y + first * size);
        } else {
            cpu::rms_norm_recompute(rows_from(source, first), values(norm.weight),
                                    rows_from(statistics.inverse, first), count, size, y + first * size);
        }
    });
    return out;
}

at::Tensor norm_backward(const at::Tensor& dy, const at::Tensor& x, const Norm& norm,
                         const NormStatistics& statistics, const at::Tensor& residual) {
    const std::int64_t size = x.size(1);
    const at::Tensor g = dy.contiguous(), source = x.contiguous(), direct = adjacent(residual);
    at::Tensor out = at::empty_like(source);
    float* dx = out.mutable_data_ptr<float>();
    for_shares_of_rows(source, [&](std::int64_t first, std::int64_t count) {
        if (norm.kind == NormKind::kLayer) {
            cpu::layer_norm_backward(rows_from(g, first), rows_from(source, first), values(norm.weight),
                                     rows_from(statistics.mean, first), rows_from(statistics.inverse, first),
                                     rows_from(direct, first), count, size, dx + first * size);
        } else {
            cpu::rms_norm_backward(rows_from(g, first), rows_from(source, first), values(norm.weight),
                                   rows_from(statistics.inverse, first), rows_from(direct, first), count,
                                   size, dx + first * size);
        }
    });
    return out;
}

}  // namespace qlora::ops::in_fp32
