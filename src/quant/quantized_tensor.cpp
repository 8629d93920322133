#include "qlora/quant/quantized_tensor.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "nf4_view.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/ops/device.h"

namespace qlora::quant {

std::int64_t QuantizedTensor::bytes() const {
    std::size_t total = codes.nbytes() + absmax.nbytes();
    if (double_quantized()) total += nested_absmax.nbytes() + sizeof(nested_offset);
    return static_cast<std::int64_t>(total);
}

QuantizedTensor QuantizedTensor::to(at::Device device) const {
    QuantizedTensor out = *this;
    out.codes = codes.to(device);
    out.absmax = absmax.to(device);
    if (nested_absmax.defined()) out.nested_absmax = nested_absmax.to(device);
    return out;
}

at::Tensor dequantize_rows(const QuantizedTensor& tensor, std::int64_t first, std::int64_t count,
                           at::ScalarType dtype) {
    at::Tensor out = at::empty({count, tensor.columns}, tensor.codes.options().dtype(dtype));
    dequantize_rows_into(tensor, first, out);
    return out;
}

void dequantize_rows_into(const QuantizedTensor& tensor, std::int64_t first, at::Tensor& out) {
    TORCH_CHECK(first >= 0 && first + out.size(0) <= tensor.rows, "dequantize: rows outside the matrix");
    TORCH_CHECK(out.is_contiguous() && out.size(1) == tensor.columns, "dequantize: rows of another shape");
    const at::ScalarType dtype = out.scalar_type();
    const kernels::Nf4View view = view_of(tensor);
    if (const kernels::KernelTable* device = ops::device_kernels(out)) {
        const std::int64_t begin = first * tensor.columns;
        device->dequantize_blockwise_nf4(view, begin, begin + out.numel(), out.mutable_data_ptr(),
                                         ops::float_type(dtype), ops::current_stream(out));
        return;
    }
    auto* data = static_cast<std::byte*>(out.mutable_data_ptr());
    const std::size_t width = out.element_size();
    const std::int64_t begin_value = first * tensor.columns, end_value = begin_value + out.numel();
    // Threads share the work by whole blocks; the first and the last block may lie only partly in the range.
    const std::int64_t begin_block = begin_value / tensor.blocksize;
    const std::int64_t end_block = kernels::block_count(end_value, tensor.blocksize);
    at::parallel_for(begin_block, end_block, std::max<std::int64_t>(1, kGrain / tensor.blocksize),
                     [&](std::int64_t begin, std::int64_t end) {
                         const std::int64_t from = std::max(begin * tensor.blocksize, begin_value);
                         const std::int64_t to = std::min(end * tensor.blocksize, end_value);
                         kernels::cpu::dequantize_blockwise_nf4(
                             view, from, to, data + static_cast<std::size_t>(from - begin_value) * width,
                             ops::float_type(dtype));
                     });
}

void dequantize_extended_into(const QuantizedTensor& tensor, const at::Tensor& appended, at::Tensor& out) {
    const kernels::KernelTable* device = ops::device_kernels(out);
    TORCH_CHECK(device != nullptr && out.is_contiguous() && out.size(0) == tensor.rows,
                "dequantize: extended rows are for a device and lie one behind the other");
    device->dequantize_rows_nf4({.weight = view_of(tensor),
                                 .columns = tensor.columns,
                                 .first = 0,
                                 .count = tensor.rows,
                                 .appended = appended.defined() ? appended.const_data_ptr<float>() : nullptr,
                                 .appended_columns = out.size(1) - tensor.columns,
                                 .out = out.mutable_data_ptr(),
                                 .type = ops::float_type(out.scalar_type())},
                                ops::current_stream(out));
}

}  // namespace qlora::quant
