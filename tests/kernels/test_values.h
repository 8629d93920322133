#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "qlora/kernels/float16.h"

namespace qlora::kernels {

inline constexpr FloatType kFloatTypes[] = {FloatType::kF32, FloatType::kF16, FloatType::kBF16};

inline std::vector<float> gaussian(int64_t n, uint32_t seed, float deviation = 1.0f) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(0.0f, deviation);
    std::vector<float> values(static_cast<size_t>(n));
    for (float& value : values) value = normal(engine);
    return values;
}

/// The bytes of `values` in another type, starting `shift` bytes into the buffer.
inline std::vector<uint8_t> encode_elements(const std::vector<float>& values, FloatType type,
                                            size_t shift = 0) {
    const size_t size = static_cast<size_t>(float_bytes(type));
    std::vector<uint8_t> bytes(shift + size * values.size());
    for (size_t i = 0; i < values.size(); ++i) {
        const uint32_t word = float_bits(values[i]);
        const uint16_t half = type == FloatType::kF16 ? float_to_f16(values[i]) : float_to_bf16(values[i]);
        std::memcpy(bytes.data() + shift + size * i,
                    type == FloatType::kF32 ? static_cast<const void*>(&word) : &half, size);
    }
    return bytes;
}

/// The values of such bytes.
inline std::vector<float> decode_elements(const std::vector<uint8_t>& bytes, FloatType type) {
    const size_t size = static_cast<size_t>(float_bytes(type));
    std::vector<float> values(bytes.size() / size);
    for (size_t i = 0; i < values.size(); ++i) {
        uint16_t half = 0;
        if (type == FloatType::kF32) {
            std::memcpy(&values[i], bytes.data() + size * i, size);
            continue;
        }
        std::memcpy(&half, bytes.data() + size * i, size);
        values[i] = type == FloatType::kF16 ? f16_to_float(half) : bf16_to_float(half);
    }
    return values;
}

/// What a tensor of `type` holds after `value` was stored.
inline float round_element(float value, FloatType type) {
    if (type == FloatType::kF16) return f16_to_float(float_to_f16(value));
    if (type == FloatType::kBF16) return bf16_to_float(float_to_bf16(value));
    return value;
}
/// The same of many.
inline std::vector<float> round_elements(std::vector<float> values, FloatType type) {
    for (float& value : values) value = round_element(value, type);
    return values;
}

/// Element `index` of a tensor of `type` that begins with the first byte.
inline float element(const std::vector<uint8_t>& bytes, FloatType type, int64_t index) {
    const size_t size = static_cast<size_t>(float_bytes(type));
    const uint8_t* place = bytes.data() + static_cast<size_t>(index) * size;
    if (type == FloatType::kF32) {
        float value;
        std::memcpy(&value, place, size);
        return value;
    }
    uint16_t bits;
    std::memcpy(&bits, place, size);
    return type == FloatType::kF16 ? f16_to_float(bits) : bf16_to_float(bits);
}

}  // namespace qlora::kernels
