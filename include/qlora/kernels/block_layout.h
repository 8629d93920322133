#pragma once

#include <cstdint>

#include "qlora/kernels/host_device.h"

/// Layout of a 4-bit tensor of n values, flattened row-major: blocks of `blocksize` values run across row
/// ends and share one fp32 scale; two codes fill a byte, the first in the high nibble; an odd n leaves one
/// low nibble, which holds the code-book's zero. A blocksize is even, so two blocks never share a byte.
namespace qlora::kernels {

inline constexpr int kMinBlocksize = 32;
inline constexpr int kMaxBlocksize = 4096;
/// Block scales that share one scale of their own under double quantization.
inline constexpr int kNestedBlocksize = 256;

QLORA_HOST_DEVICE constexpr bool is_valid_blocksize(int64_t blocksize) {
    return blocksize >= kMinBlocksize && blocksize <= kMaxBlocksize && (blocksize & (blocksize - 1)) == 0;
}

QLORA_HOST_DEVICE constexpr int64_t block_count(int64_t n, int64_t blocksize) {
    return n / blocksize + (n % blocksize != 0 ? 1 : 0);
}
QLORA_HOST_DEVICE constexpr int64_t nested_block_count(int64_t blocks) {
    return block_count(blocks, kNestedBlocksize);
}
QLORA_HOST_DEVICE constexpr int64_t packed_bytes(int64_t n) {
    return n / 2 + n % 2;
}

QLORA_HOST_DEVICE constexpr uint8_t pack_pair(int first, int second) {
    return static_cast<uint8_t>((first << 4) | second);
}
QLORA_HOST_DEVICE constexpr int first_code(uint8_t pair) {
    return pair >> 4;
}
QLORA_HOST_DEVICE constexpr int second_code(uint8_t pair) {
    return pair & 0x0f;
}
QLORA_HOST_DEVICE constexpr int code_at(const uint8_t* packed, int64_t element) {
    return element % 2 == 0 ? first_code(packed[element / 2]) : second_code(packed[element / 2]);
}

}  // namespace qlora::kernels
