// Values of 16 bits as fp32, exactly.
#include "elementwise_path.h"
#include "load_float.h"
#include "vector_lanes.h"

namespace qlora::kernels::cpu::QLORA_PATH {

/// Halfwords from any address, each in the low half of a lane.
template <class Lanes>
QLORA_LANES_INLINE Lanes load_halfwords(const char* from) {
    if constexpr (kIsPair<Lanes>) {
        using Half = decltype(Lanes::low);
        return {load_halfwords<Half>(from), load_halfwords<Half>(from + kLanes)};
    } else {
        typedef uint16_t Halfwords __attribute__((vector_size(sizeof(Lanes) / 2)));
        Halfwords words;
        __builtin_memcpy(&words, from, sizeof words);
        return __builtin_convertvector(words, Lanes);
    }
}

/// As f16_to_float. No lane becomes a denormal on the way: processors take long over those.
QLORA_LANES_INLINE Floats floats_of_f16(Ints bits) {
    const Ints magnitude = (bits & all<Ints>(0x7fffu)) << 13;
    const Ints sign = (bits & all<Ints>(0x8000u)) << 16;
    const Ints infinite = all<Ints>(0x1fu << 23);
    // Below the least normal half its mantissa counts multiples of 2^-24: what 2^-14 with it exceeds 2^-14
    // by.
    const Floats tiny = as_floats(magnitude + all<Ints>(113u << 23)) - all<Floats>(0x1p-14f);
    const Ints quiet = select(magnitude > infinite, all<Ints>(0x400000u), all<Ints>(0u));
    const Ints special = magnitude | all<Ints>(kFloatInfinityBits) | quiet;
    const Ints normal = magnitude + all<Ints>(112u << 23);
    const Ints large = select(magnitude < infinite, normal, special);
    return as_floats(sign | select(magnitude < all<Ints>(1u << 23), as_ints(tiny), large));
}

template <class Elements>
inline constexpr bool kIsF16 = false;
template <>
inline constexpr bool kIsF16<F16Elements> = true;

template <class Elements>
QLORA_LANES_INLINE void widen_halfwords(const void* values, int64_t first, int64_t count, float* out) {
    const char* from = static_cast<const char*>(values) + 2 * first;
    int64_t at = 0;
    for (; at + kLanes <= count; at += kLanes) {
        const Ints bits = load_halfwords<Ints>(from + 2 * at);
        if constexpr (kIsF16<Elements>) {
            store(out, Whole{at}, floats_of_f16(bits));
        } else {
            store(out, Whole{at}, as_floats(bits << 16));
        }
    }
    for (; at < count; ++at) out[at] = Elements::load(from, at);
}

static void widen(const void* values, FloatType type, int64_t first, int64_t count, float* out) {
    switch (type) {
        case FloatType::kF32:
            __builtin_memcpy(out, static_cast<const char*>(values) + 4 * first,
                             static_cast<size_t>(count) * sizeof(float));
            return;
        case FloatType::kF16:
            return widen_halfwords<F16Elements>(values, first, count, out);
        case FloatType::kBF16:
            return widen_halfwords<BF16Elements>(values, first, count, out);
    }
}

}  // namespace qlora::kernels::cpu::QLORA_PATH
