#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <atomic>

#include "nf4_view.h"
#include "qlora/core/error.h"
#include "qlora/io/safetensors.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/ops/device.h"

namespace qlora::quant {
namespace {

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

}  // namespace qlora::quant
