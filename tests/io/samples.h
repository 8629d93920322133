#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "qlora/io/safetensors.h"

namespace qlora::io::test {

/// 8 bytes, little-endian.
inline std::string length_field(std::uint64_t length) {
    std::string out;
    for (int shift = 0; shift < 64; shift += 8) out += static_cast<char>(length >> shift & 0xFF);
    return out;
}

/// A file with this header, whatever it says, and this data.
inline std::string file_of(std::string_view header, std::string_view data = "") {
    return length_field(header.size()) + std::string(header) + std::string(data);
}

/// Bytes that differ from tensor to tensor and from place to place.
inline std::vector<std::byte> sample_bytes(std::size_t size, unsigned seed) {
    std::vector<std::byte> out(size);
    std::uint32_t state = seed * 2654435761U + 1;
    for (std::byte& byte : out) {
        state = state * 1664525U + 1013904223U;
        byte = static_cast<std::byte>(state >> 24);
    }
    return out;
}

inline std::size_t byte_size(const TensorSpec& spec) {
    std::size_t size = size_of(spec.dtype);
    for (const std::int64_t dimension : spec.shape) size *= static_cast<std::size_t>(dimension);
    return size;
}

/// Writes the tensors with `sample_bytes(size, seed + place)`.
inline void write_sample(const std::filesystem::path& file, const std::vector<TensorSpec>& specs,
                         unsigned seed = 1, const std::map<std::string, std::string>& metadata = {}) {
    SafetensorsWriter writer(file, specs, metadata);
    for (const TensorSpec& spec : specs) writer.append(sample_bytes(byte_size(spec), seed++));
    writer.finish();
}

}  // namespace qlora::io::test
