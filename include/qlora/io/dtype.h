#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace qlora::io {

/// Element types of the safetensors format.
enum class DType {
    kBool,
    kU8,
    kI8,
    kI16,
    kU16,
    kF16,
    kBF16,
    kI32,
    kU32,
    kF32,
    kF64,
    kI64,
    kU64,
    kF8E4M3,
    kF8E5M2
};

std::size_t size_of(DType dtype);       ///< bytes an element
std::string_view name_of(DType dtype);  ///< safetensors' name: "F32", "BF16", ...
std::optional<DType> dtype_from_name(std::string_view name);
/// Place in the safetensors package's order of dtypes; its writer lays out higher ranks first.
std::size_t safetensors_rank(DType dtype);

}  // namespace qlora::io
