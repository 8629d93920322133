#include "qlora/quant/tensor_bytes.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <atomic>
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

/// Values a thread looks at, at least.
constexpr std::int64_t kGrain = 1 << 20;

/// Whether some value has all exponent bits set, which is what infinities and NaN have.
template <class Bits>
bool any_has_bits(std::span<const std::byte> bytes, Bits exponent) {
    std::atomic<bool> found{false};
    const auto values = static_cast<std::int64_t>(bytes.size() / sizeof(Bits));
    at::parallel_for(0, values, kGrain, [&](std::int64_t begin, std::int64_t end) {
        unsigned any = 0;
        for (std::int64_t i = begin; i < end; ++i) {
            Bits bits;
            std::memcpy(&bits, bytes.data() + static_cast<std::size_t>(i) * sizeof bits, sizeof bits);
            any |= static_cast<Bits>(bits & exponent) == exponent ? 1U : 0U;
        }
        if (any != 0) found = true;
    });
    return found;
}

}  // namespace

bool all_finite(const io::TensorView& view) {
    switch (view.dtype) {
        case io::DType::kF32:
            return !any_has_bits<std::uint32_t>(view.bytes, 0x7f800000U);
        case io::DType::kF16:
            return !any_has_bits<std::uint16_t>(view.bytes, 0x7c00U);
        case io::DType::kBF16:
            return !any_has_bits<std::uint16_t>(view.bytes, 0x7f80U);
        default:
            throw CheckpointError("tensor " + view.name + " has dtype " +
                                  std::string(io::name_of(view.dtype)) + "; F32, F16 and BF16 are supported");
    }
}

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
