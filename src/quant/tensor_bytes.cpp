#include "qlora/quant/tensor_bytes.h"

#include <cstring>

#include "qlora/core/error.h"

namespace qlora::quant {
namespace {

struct Pair {
    io::DType file;
    at::ScalarType memory;
};

constexpr Pair kPairs[] = {
    {io::DType::kF32, at::kFloat},  {io::DType::kF16, at::kHalf}, {io::DType::kBF16, at::kBFloat16},
    {io::DType::kF64, at::kDouble}, {io::DType::kU8, at::kByte},  {io::DType::kI8, at::kChar},
    {io::DType::kI16, at::kShort},  {io::DType::kI32, at::kInt},  {io::DType::kI64, at::kLong},
    {io::DType::kBool, at::kBool},
};

}  // namespace

io::DType dtype_of(at::ScalarType dtype) {
    for (const Pair& pair : kPairs) {
        if (pair.memory == dtype) return pair.file;
    }
    throw CheckpointError(std::string("a tensor of type ") + at::toString(dtype) +
                          " cannot be written to safetensors");
}

at::ScalarType scalar_type_of(io::DType dtype) {
    for (const Pair& pair : kPairs) {
        if (pair.file == dtype) return pair.memory;
    }
    throw CheckpointError("tensors of dtype " + std::string(io::name_of(dtype)) + " cannot be used");
}

at::Tensor tensor_from_view(const io::TensorView& view) {
    at::Tensor out = at::empty(view.shape, scalar_type_of(view.dtype));
    if (!view.bytes.empty()) std::memcpy(out.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
    return out;
}

std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
    TORCH_CHECK(tensor.is_contiguous() && tensor.device().is_cpu(),
                "bytes_of: a contiguous CPU tensor is needed");
    return {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

}  // namespace qlora::quant
