#include "qlora/quant/quantized_tensor.h"

#include <atomic>
#include <cstring>

#include "qlora/core/error.h"
#include "qlora/io/safetensors.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/dynamic_code.h"
#include "qlora/kernels/kernels.h"
#include "qlora/ops/device.h"
#include "qlora/quant/bnb_matrix.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora::quant {
namespace {

/// Values a thread takes at least, so that small matrices are not split.
constexpr std::int64_t kGrain = 1 << 16;

kernels::FloatType input_type(const io::TensorView& tensor) {
    switch (tensor.dtype) {
        case io::DType::kF32:
            return kernels::FloatType::kF32;
        case io::DType::kF16:
            return kernels::FloatType::kF16;
        case io::DType::kBF16:
            return kernels::FloatType::kBF16;
        default:
            throw CheckpointError("tensor " + tensor.name + " has dtype " +
                                  std::string(io::name_of(tensor.dtype)) +
                                  "; only F32, F16 and BF16 weights can be quantized");
    }
}

/// Bytes a thread copies at least.
constexpr std::int64_t kCopyGrain = 1 << 20;

at::Tensor copy_codes(std::span<const std::byte> bytes) {
    const auto size = static_cast<std::int64_t>(bytes.size());
    at::Tensor out = at::empty({size}, at::kByte);
    auto* data = out.mutable_data_ptr<std::uint8_t>();
    at::parallel_for(0, size, kCopyGrain, [&](std::int64_t begin, std::int64_t end) {
        std::memcpy(data + begin, bytes.data() + begin, static_cast<std::size_t>(end - begin));
    });
    return out;
}

at::Tensor load_scales(const io::TensorView& view) {
    if (!all_finite(view)) {
        throw CheckpointError("tensor " + view.name +
                              " holds a scale that is not finite; the checkpoint is damaged");
    }
    return tensor_from_view(view);
}

/// The scales of a matrix by the file's own map: map[code] * nested + offset, as bitsandbytes computes them.
at::Tensor decode_scales(const QuantizedTensor& tensor, const at::Tensor& map) {
    const std::int64_t blocks = tensor.absmax.numel();
    const at::Tensor nested =
        tensor.nested_absmax.repeat_interleave(kernels::kNestedBlocksize).narrow(0, 0, blocks);
    return map.index_select(0, tensor.absmax.to(at::kLong)).mul_(nested).add_(tensor.nested_offset);
}

}  // namespace

namespace {

kernels::Nf4View view_of(const QuantizedTensor& tensor) {
    kernels::AbsmaxView absmax;
    if (tensor.double_quantized()) {
        absmax.codes = tensor.absmax.const_data_ptr<std::uint8_t>();
        absmax.nested_absmax = tensor.nested_absmax.const_data_ptr<float>();
        absmax.offset = tensor.nested_offset;
    } else {
        absmax.values = tensor.absmax.const_data_ptr<float>();
    }
    return {.packed = tensor.codes.const_data_ptr<std::uint8_t>(),
            .absmax = absmax,
            .n = tensor.rows * tensor.columns,
            .blocksize = static_cast<int>(tensor.blocksize)};
}

[[noreturn]] void throw_not_finite(const io::TensorView& tensor, std::int64_t index) {
    throw CheckpointError("tensor " + tensor.name + " holds a value that is not finite (row " +
                          std::to_string(index / tensor.shape[1]) + ", column " +
                          std::to_string(index % tensor.shape[1]) + "); the checkpoint is damaged");
}

/// Fills `out`, whose codes lie on the device, and `absmax`, from the tensor's mapped bytes.
void quantize_on_device(const io::TensorView& tensor, const QuantConfig& config,
                        const kernels::KernelTable& device, at::Tensor& absmax, QuantizedTensor& out) {
    // Nothing is written through this view of the mapped bytes.
    auto* bytes = const_cast<std::byte*>(tensor.bytes.data());
    const at::Tensor mapped =
        at::from_blob(bytes, {static_cast<std::int64_t>(tensor.bytes.size())}, at::kByte);
    const at::Tensor input = mapped.to(out.codes.device());
    const at::Tensor first_non_finite = at::full({1}, -1, input.options().dtype(at::kLong));
    void* stream = ops::current_stream(input);
    device.quantize_blockwise_nf4({.input = input.const_data_ptr(),
                                   .input_type = input_type(tensor),
                                   .n = tensor.elements(),
                                   .blocksize = static_cast<int>(config.bnb_4bit_blocksize),
                                   .packed = out.codes.mutable_data_ptr<std::uint8_t>(),
                                   .absmax = absmax.mutable_data_ptr<float>()},
                                  first_non_finite.mutable_data_ptr<std::int64_t>(), stream);
    const auto bad = first_non_finite.item<std::int64_t>();
    if (bad >= 0) throw_not_finite(tensor, bad);
    if (!config.bnb_4bit_use_double_quant) {
        out.absmax = absmax;
        return;
    }
    const std::int64_t blocks = absmax.numel();
    out.absmax = at::empty({blocks}, out.codes.options());
    out.nested_absmax = at::empty({kernels::nested_block_count(blocks)}, absmax.options());
    const at::Tensor offset = at::empty({1}, absmax.options());
    device.quantize_absmax(
        absmax.const_data_ptr<float>(), blocks, out.absmax.mutable_data_ptr<std::uint8_t>(),
        out.nested_absmax.mutable_data_ptr<float>(), offset.mutable_data_ptr<float>(), stream);
    out.nested_offset = offset.item<float>();
}

}  // namespace

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

QuantizedTensor quantize(const io::TensorView& tensor, const QuantConfig& config, at::Device device) {
    if (tensor.shape.size() != 2) throw CheckpointError("tensor " + tensor.name + " is not a matrix");
    const std::int64_t n = tensor.elements(), blocksize = config.bnb_4bit_blocksize;
    const std::int64_t blocks = kernels::block_count(n, blocksize);
    QuantizedTensor out{.rows = tensor.shape[0], .columns = tensor.shape[1], .blocksize = blocksize};
    const at::TensorOptions bytes = at::TensorOptions(device).dtype(at::kByte);
    out.codes = at::empty({kernels::packed_bytes(n)}, bytes);
    at::Tensor absmax = at::empty({blocks}, bytes.dtype(at::kFloat));
    if (const kernels::KernelTable* kernels = ops::device_kernels(out.codes)) {
        quantize_on_device(tensor, config, *kernels, absmax, out);
        return out;
    }
    const kernels::QuantizeNf4Params params{.input = tensor.bytes.data(),
                                            .input_type = input_type(tensor),
                                            .n = n,
                                            .blocksize = static_cast<int>(blocksize),
                                            .packed = out.codes.mutable_data_ptr<std::uint8_t>(),
                                            .absmax = absmax.mutable_data_ptr<float>()};
    std::atomic<std::int64_t> bad{n};
    at::parallel_for(0, blocks, std::max<std::int64_t>(1, kGrain / blocksize),
                     [&](std::int64_t begin, std::int64_t end) {
                         const std::int64_t index = kernels::cpu::quantize_blockwise_nf4(params, begin, end);
                         std::int64_t seen = bad.load();
                         while (index >= 0 && index < seen && !bad.compare_exchange_weak(seen, index)) {
                         }
                     });
    if (bad.load() < n) throw_not_finite(tensor, bad.load());
    if (!config.bnb_4bit_use_double_quant) {
        out.absmax = absmax;
        return out;
    }
    out.absmax = at::empty({blocks}, at::kByte);
    out.nested_absmax = at::empty({kernels::nested_block_count(blocks)}, at::kFloat);
    out.nested_offset = kernels::cpu::quantize_absmax(absmax.const_data_ptr<float>(), blocks,
                                                      out.absmax.mutable_data_ptr<std::uint8_t>(),
                                                      out.nested_absmax.mutable_data_ptr<float>());
    return out;
}

QuantizedTensor load_quantized(const BnbMatrix& matrix) {
    QuantizedTensor out{.rows = matrix.rows, .columns = matrix.columns, .blocksize = matrix.blocksize};
    out.codes = copy_codes(matrix.codes->bytes);
    if (!matrix.double_quantized()) {
        out.absmax = load_scales(*matrix.absmax);
        return out;
    }
    out.absmax = tensor_from_view(*matrix.absmax);
    out.nested_absmax = load_scales(*matrix.nested_absmax);
    out.nested_offset = matrix.nested_offset;
    const std::span<const std::byte> map = matrix.nested_map->bytes;
    if (std::memcmp(map.data(), kernels::kSignedDynamicMap.value, map.size()) != 0) {
        out.absmax = decode_scales(out, tensor_from_view(*matrix.nested_map));
        out.nested_absmax = at::Tensor();
        out.nested_offset = 0.0F;
    }
    return out;
}

at::Tensor dequantize(const QuantizedTensor& tensor, at::ScalarType dtype) {
    return dequantize_rows(tensor, 0, tensor.rows, dtype);
}

at::Tensor dequantize_rows(const QuantizedTensor& tensor, std::int64_t first, std::int64_t count,
                           at::ScalarType dtype) {
    at::Tensor out = at::empty({count, tensor.columns}, tensor.codes.options().dtype(dtype));
    dequantize_rows_into(tensor, first, out);
    return out;
}

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
