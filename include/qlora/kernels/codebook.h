#pragma once

#include <cstdint>

#include "qlora/kernels/float16.h"
#include "qlora/kernels/host_device.h"

/// 4-bit code-books. NF4: the 16 values of the QLoRA paper, ascending, in [-1, 1], bit for bit those of
/// bitsandbytes. A sibling brings the same names: its zero code, decode and encode.
namespace qlora::kernels {

inline constexpr int kNf4Codes = 16;
/// The code of the value 0: it pads an odd count and fills a block that is all zero.
inline constexpr int kNf4ZeroCode = 7;

/// On a GPU an index known only at run time puts the table into each thread's local memory: a kernel copies
/// the 16 values to shared memory once.
QLORA_HOST_DEVICE constexpr float decode_nf4(int code) {
    constexpr uint32_t kBits[kNf4Codes] = {0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0,   // -1 ..
                                           0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0x00000000,   // .. 0
                                           0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a,   // 0.0796 ..
                                           0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000};  // .. 1
    return float_from_bits(kBits[code]);
}

/// Element i lies midway between codes i and i + 1, rounded to fp32.
struct Nf4Thresholds {
    float at[kNf4Codes - 1];
};

QLORA_HOST_DEVICE constexpr Nf4Thresholds nf4_thresholds() {
    Nf4Thresholds thresholds{};
    for (int code = 0; code + 1 < kNf4Codes; ++code) {
        thresholds.at[code] = (decode_nf4(code) + decode_nf4(code + 1)) * 0.5f;
    }
    return thresholds;
}

/// Nearest code, counted rather than searched so that the thresholds become immediates and nothing branches;
/// a value on a threshold takes the lower one. NaN gives the code of 0: from finite input it arises only as 0
/// * infinity, where the reciprocal of a block maximum of 0 or of at most 2^-128 overflowed, and there it
/// means 0.
QLORA_HOST_DEVICE constexpr int encode_nf4(float x) {
    constexpr Nf4Thresholds kThresholds = nf4_thresholds();
    if (x != x) return kNf4ZeroCode;
    int code = 0;
    for (int i = 0; i < kNf4Codes - 1; ++i) code += x > kThresholds.at[i] ? 1 : 0;
    return code;
}

}  // namespace qlora::kernels
