#pragma once

#include <algorithm>
#include <cstdint>

#include "qlora/kernels/float16.h"
#include "qlora/kernels/host_device.h"

namespace qlora::kernels {

/// 256 ascending values of an 8-bit code whose fraction grows by one bit with each power of ten:
/// bitsandbytes' `create_dynamic_map(signed, max_exponent_bits=7, total_bits=8)`, bit for bit. Kernels
/// receive it as a pointer.
struct DynamicMap {
    float value[256];
};

/// Element `index` of `torch.linspace(0.1, 1, points)` in fp32: counted from the nearer end, with one
/// rounding. The double holds the exact result (31 bits suffice for 129 points), so the cast is the fused
/// multiply-add's rounding.
constexpr float dynamic_boundary(int points, int index) {
    const float step = (1.0f - 0.1f) / static_cast<float>(points - 1);
    if (index < points / 2) return static_cast<float>(0.1f + static_cast<double>(step) * index);
    return static_cast<float>(1.0 - static_cast<double>(step) * (points - 1 - index));
}

/// Signed: block scales and Adam's first moment. Unsigned: Adam's second moment, one more bit of fraction
/// everywhere.
constexpr DynamicMap make_dynamic_map(bool is_signed) {
    constexpr float kPowersOfTen[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    DynamicMap map{};
    int count = 0;
    for (int exponent = 0; exponent < 7; ++exponent) {
        const int points = (is_signed ? 1 << exponent : 2 << exponent) + 1;
        for (int i = 0; i + 1 < points; ++i) {
            const float mean = (dynamic_boundary(points, i) + dynamic_boundary(points, i + 1)) / 2.0f;
            const float value = kPowersOfTen[exponent] * mean;
            map.value[count++] = value;
            if (is_signed) map.value[count++] = -value;
        }
    }
    map.value[count++] = 0.0f;
    map.value[count++] = 1.0f;
    std::sort(map.value, map.value + count);
    return map;
}

inline constexpr DynamicMap kSignedDynamicMap = make_dynamic_map(true);
inline constexpr DynamicMap kUnsignedDynamicMap = make_dynamic_map(false);

/// Nearest entry of a 256-entry map by bitsandbytes' search: seven halving steps from entry 127, then the
/// neighbour on x's side wins only if x lies strictly beyond the fp32 midpoint. The search ends on even
/// entries, so a tie keeps the even one of the two. NaN counts as 0: it arises as 0 * infinity in a block of
/// zeros (bitsandbytes on CUDA writes entry 0 there, which decodes to the same scale).
QLORA_HOST_DEVICE constexpr int encode_dynamic(const float* map, float x) {
    if (x != x) x = 0.0f;
    int below = 0;
    int above = 255;
    int pivot = 127;
    for (int step = 64; step > 0; step /= 2) {
        if (x > map[pivot]) {
            below = pivot;
            pivot += step;
        } else {
            above = pivot;
            pivot -= step;
        }
    }
    if (x > map[pivot]) return x > (map[above] + map[pivot]) * 0.5f ? above : pivot;
    return x < (map[below] + map[pivot]) * 0.5f ? below : pivot;
}

/// A block scale from its 8-bit code: the product is rounded before the offset is added.
QLORA_HOST_DEVICE constexpr float decode_absmax(const float* map, uint8_t code, float nested_absmax,
                                                float offset) {
    const float product = map[code] * nested_absmax;
    return product + offset;
}

}  // namespace qlora::kernels
