#pragma once

#include <cstdint>

#include "qlora/kernels/host_device.h"

namespace qlora::kernels {

/// Element types of tensors that kernels read and write; arithmetic is always fp32.
enum class FloatType : uint8_t { kF32, kF16, kBF16 };

QLORA_HOST_DEVICE constexpr int float_bytes(FloatType type) {
    return type == FloatType::kF32 ? 4 : 2;
}

QLORA_HOST_DEVICE constexpr uint32_t float_bits(float value) {
    return __builtin_bit_cast(uint32_t, value);
}
QLORA_HOST_DEVICE constexpr float float_from_bits(uint32_t bits) {
    return __builtin_bit_cast(float, bits);
}

inline constexpr uint32_t kFloatSignBit = 0x80000000u;
/// Absolute bits at or above this are infinity or NaN; below it, integer order is the order of magnitudes.
inline constexpr uint32_t kFloatInfinityBits = 0x7f800000u;

QLORA_HOST_DEVICE constexpr uint32_t float_magnitude_bits(float value) {
    return float_bits(value) & ~kFloatSignBit;
}
QLORA_HOST_DEVICE constexpr bool is_finite(float value) {
    return float_magnitude_bits(value) < kFloatInfinityBits;
}

QLORA_HOST_DEVICE constexpr float bf16_to_float(uint16_t bits) {
    return float_from_bits(static_cast<uint32_t>(bits) << 16);
}

inline constexpr uint16_t kBF16Nan = 0x7fc0;

/// Round to nearest even. Every NaN becomes kBF16Nan, as in c10::BFloat16 on the host.
QLORA_HOST_DEVICE constexpr uint16_t float_to_bf16(float value) {
    const uint32_t bits = float_bits(value);
    if ((bits & ~kFloatSignBit) > kFloatInfinityBits) return kBF16Nan;
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// Exact for every finite half; a NaN keeps sign and payload and becomes quiet.
QLORA_HOST_DEVICE constexpr float f16_to_float(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const uint32_t exponent = (bits >> 10) & 0x1fu;
    const uint32_t mantissa = bits & 0x3ffu;
    if (exponent == 0x1f) {
        const uint32_t quiet = mantissa != 0 ? 0x400000u : 0u;
        return float_from_bits(sign | kFloatInfinityBits | quiet | (mantissa << 13));
    }
    if (exponent == 0) {
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
        return float_from_bits(sign | float_bits(magnitude));
    }
    return float_from_bits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

/// The half that a NaN becomes: quiet, with its sign.
QLORA_HOST_DEVICE constexpr uint16_t f16_nan(float nan) {
    return static_cast<uint16_t>(((float_bits(nan) & kFloatSignBit) >> 16) | 0x7e00u);
}

/// Round to nearest even; from 65520 on infinity. A NaN becomes f16_nan, as in c10::Half on the host.
QLORA_HOST_DEVICE constexpr uint16_t float_to_f16(float value) {
    const uint32_t sign = (float_bits(value) & kFloatSignBit) >> 16;
    const uint32_t magnitude = float_magnitude_bits(value);
    if (magnitude > kFloatInfinityBits) return f16_nan(value);
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        // Below the least normal half, 2^-14: adding 0.5 leaves the value rounded to a multiple of 2^-24 in
        // the low bits.
        const float shifted = float_from_bits(magnitude) + 0.5f;
        return static_cast<uint16_t>(sign | (float_bits(shifted) - float_bits(0.5f)));
    }
    const uint32_t rebiased = magnitude - (112u << 23);
    return static_cast<uint16_t>(sign | ((rebiased + 0xfffu + ((rebiased >> 13) & 1u)) >> 13));
}

}  // namespace qlora::kernels
