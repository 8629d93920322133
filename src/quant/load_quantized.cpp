#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstring>

#include "qlora/core/error.h"
#include "qlora/io/safetensors.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/dynamic_code.h"
#include "qlora/quant/bnb_matrix.h"
#include "qlora/quant/quantized_tensor.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora::quant {
namespace {

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

}  // namespace qlora::quant
