#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/io/safetensors.h"

namespace qlora::io {

inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  ///< the format's own limit
inline constexpr std::string_view kMetadataKey = "__metadata__";

// The format leaves these open; without them a header within its limit could still ask for much time and
// memory.
inline constexpr std::size_t kMaxEntries = 200'000;  ///< tensors, and metadata entries
inline constexpr std::size_t kMaxNameBytes = 1024;
inline constexpr std::size_t kMaxRank = 64;

struct SafetensorsHeader {
    std::vector<TensorView> tensors;  ///< in file order, bytes inside the buffer that was parsed
    std::map<std::string, std::string> metadata;
    std::vector<std::size_t> by_name;  ///< places in `tensors`, sorted by name
};

/// Checks a whole file in memory against every rule of the format. Throws CheckpointError; `file` is its name
/// there.
SafetensorsHeader parse_safetensors(std::span<const std::byte> bytes, const std::string& file);

/// nullopt when the product of the non-zero dimensions and the element size is beyond a signed 64-bit number
/// (even where another dimension is 0: code that computes strides must not overflow) or a dimension is
/// negative.
std::optional<std::uint64_t> checked_byte_size(DType dtype, std::span<const std::int64_t> shape);

/// Why a tensor cannot have this name; empty when it can.
std::string fault_of_name(std::string_view name);

}  // namespace qlora::io
