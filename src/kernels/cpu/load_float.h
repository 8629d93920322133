#pragma once

#include <cstdint>
#include <cstring>

#include "qlora/kernels/float16.h"

/// Element access that does not assume alignment: tensors in a mapped file may start at any byte.
namespace qlora::kernels::cpu {

struct F32Elements {
    static float load(const void* base, int64_t index) {
        float value;
        std::memcpy(&value, static_cast<const char*>(base) + 4 * index, sizeof value);
        return value;
    }
    static void store(void* base, int64_t index, float value) {
        std::memcpy(static_cast<char*>(base) + 4 * index, &value, sizeof value);
    }
};

struct F16Elements {
    static float load(const void* base, int64_t index) {
        uint16_t bits;
        std::memcpy(&bits, static_cast<const char*>(base) + 2 * index, sizeof bits);
        return f16_to_float(bits);
    }
    static void store(void* base, int64_t index, float value) {
        const uint16_t bits = float_to_f16(value);
        std::memcpy(static_cast<char*>(base) + 2 * index, &bits, sizeof bits);
    }
};

struct BF16Elements {
    static float load(const void* base, int64_t index) {
        uint16_t bits;
        std::memcpy(&bits, static_cast<const char*>(base) + 2 * index, sizeof bits);
        return bf16_to_float(bits);
    }
    static void store(void* base, int64_t index, float value) {
        const uint16_t bits = float_to_bf16(value);
        std::memcpy(static_cast<char*>(base) + 2 * index, &bits, sizeof bits);
    }
};

}  // namespace qlora::kernels::cpu
