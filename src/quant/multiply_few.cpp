#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "nf4_view.h"
#include "qlora/ops/device.h"

namespace qlora::quant {
namespace {

kernels::cpu::Matvec matvec_of(const at::Tensor& rows, at::Tensor& y, at::ScalarType weights) {
    return {.type = ops::float_type(weights),
            .outputs = y.size(1),
            .inputs = rows.size(1),
            .x = rows.const_data_ptr<float>(),
            .rows = rows.size(0),
            .y = y.mutable_data_ptr<float>()};
}

/// Splits the outputs of a product over the threads: calls multiply(product, begin, end) for each range.
template <class Multiply>
void in_parallel(const kernels::cpu::Matvec& product, const Multiply& multiply) {
    at::parallel_for(0, product.outputs, std::max<std::int64_t>(1, kGrain / product.inputs),
                     [&](std::int64_t begin, std::int64_t end) { multiply(product, begin, end); });
}

}  // namespace

at::Tensor multiply_few(const QuantizedTensor& tensor, const at::Tensor& x, at::ScalarType dtype) {
    const at::Tensor rows = x.contiguous();
    at::Tensor y = at::empty({rows.size(0), tensor.rows}, rows.options());
    if (const kernels::KernelTable* device = ops::device_kernels(rows)) {
        device->matvec_nf4({.weight = view_of(tensor),
                            .outputs = tensor.rows,
                            .inputs = tensor.columns,
                            .x = rows.const_data_ptr(),
                            .rows = static_cast<int>(rows.size(0)),
                            .y = y.mutable_data_ptr(),
                            .type = ops::float_type(rows.scalar_type())},
                           ops::current_stream(rows));
        return y;
    }
    in_parallel(matvec_of(rows, y, dtype),
                [&](const kernels::cpu::Matvec& product, std::int64_t begin, std::int64_t end) {
                    kernels::cpu::matvec_nf4(view_of(tensor), product, begin, end);
                });
    return y;
}

at::Tensor multiply_few(const at::Tensor& weight, const at::Tensor& x) {
    const at::Tensor rows = x.contiguous();
    at::Tensor y = at::empty({rows.size(0), weight.size(0)}, rows.options());
    in_parallel(matvec_of(rows, y, weight.scalar_type()),
                [&](const kernels::cpu::Matvec& product, std::int64_t begin, std::int64_t end) {
                    kernels::cpu::matvec_dense(weight.const_data_ptr(), product, begin, end);
                });
    return y;
}

}  // namespace qlora::quant
