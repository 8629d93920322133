#pragma once

#include "vector_lanes.h"

namespace qlora::kernels::cpu::QLORA_PATH {

/// The registers of this path for the shared math of exp_math.h and activation_math.h.
struct RowLanes {
    using Floats = QLORA_PATH::Floats;
    using Ints = QLORA_PATH::Ints;
    QLORA_LANES_INLINE static Floats all(float value) { return QLORA_PATH::all<Floats>(value); }
    QLORA_LANES_INLINE static Ints all_ints(uint32_t value) { return QLORA_PATH::all<Ints>(value); }
    QLORA_LANES_INLINE static Ints as_ints(Floats a) { return QLORA_PATH::as_ints(a); }
    QLORA_LANES_INLINE static Floats as_floats(Ints a) { return QLORA_PATH::as_floats(a); }
    QLORA_LANES_INLINE static Floats larger(Floats first, Floats second) {
        return QLORA_PATH::larger(first, second);
    }
    QLORA_LANES_INLINE static Floats smaller(Floats first, Floats second) {
        return QLORA_PATH::smaller(first, second);
    }
    template <class Mask>
    QLORA_LANES_INLINE static Floats select(Mask mask, Floats yes, Floats no) {
        return QLORA_PATH::select(mask, yes, no);
    }
};

QLORA_LANES_INLINE Floats exp_nonpositive(Floats x) {
    return kernels::exp_nonpositive<RowLanes>(x);
}
QLORA_LANES_INLINE Floats exp_lanes(Floats x) {
    return kernels::exp_lanes<RowLanes>(x);
}

}  // namespace qlora::kernels::cpu::QLORA_PATH
