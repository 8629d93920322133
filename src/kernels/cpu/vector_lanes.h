#pragma once

// Eight fp32 lanes, the same arithmetic on registers of 16 and of 32 bytes. The file that includes this one
// defines QLORA_PATH (a namespace of its own, so that two compilations never share a function) and
// QLORA_REGISTER_BYTES. Only IEEE operations on single lanes and no functions of the standard library's
// templates: the bits depend on neither the width nor the compiler's target, except the payload and the sign
// of a NaN.

#include <cstdint>

#include "qlora/kernels/exp_math.h"

namespace qlora::kernels::cpu::QLORA_PATH {

typedef float FloatRegister __attribute__((vector_size(QLORA_REGISTER_BYTES)));
typedef double DoubleRegister __attribute__((vector_size(QLORA_REGISTER_BYTES)));
typedef uint32_t IntRegister __attribute__((vector_size(QLORA_REGISTER_BYTES)));

template <class Half>
struct Pair {
    Half low, high;
};

template <bool kWide, class Register>
struct EightLanes {
    using Type = Register;
};
template <class Register>
struct EightLanes<false, Register> {
    using Type = Pair<Register>;
};
inline constexpr bool kWideRegisters = QLORA_REGISTER_BYTES == 32;
using Floats = EightLanes<kWideRegisters, FloatRegister>::Type;
using Ints = EightLanes<kWideRegisters, IntRegister>::Type;
using Doubles = Pair<EightLanes<kWideRegisters, DoubleRegister>::Type>;
inline constexpr int64_t kLanes = 8;

#define QLORA_PAIR_OPERATOR(op)                                                                       \
    template <class Half>                                                                             \
    QLORA_LANES_INLINE auto operator op(Pair<Half> a, Pair<Half> b)->Pair<decltype(a.low op b.low)> { \
        return {a.low op b.low, a.high op b.high};                                                    \
    }
QLORA_PAIR_OPERATOR(+)
QLORA_PAIR_OPERATOR(-)
QLORA_PAIR_OPERATOR(*)
QLORA_PAIR_OPERATOR(/)
QLORA_PAIR_OPERATOR(<)
QLORA_PAIR_OPERATOR(>)
QLORA_PAIR_OPERATOR(|)
QLORA_PAIR_OPERATOR(&)
#undef QLORA_PAIR_OPERATOR

template <class Half>
QLORA_LANES_INLINE Pair<Half> operator<<(Pair<Half> a, int count) {
    return {a.low << count, a.high << count};
}
template <class Mask, class Register>
QLORA_LANES_INLINE Register select(Mask mask, Register yes, Register no) {
    return mask ? yes : no;
}
template <class Mask, class Half>
QLORA_LANES_INLINE Pair<Half> select(Pair<Mask> mask, Pair<Half> yes, Pair<Half> no) {
    return {select(mask.low, yes.low, no.low), select(mask.high, yes.high, no.high)};
}

/// `second` where the comparison fails, so where either is NaN.
QLORA_LANES_INLINE Floats larger(Floats first, Floats second) {
    return select(second < first, first, second);
}
QLORA_LANES_INLINE Floats smaller(Floats first, Floats second) {
    return select(second > first, first, second);
}

QLORA_LANES_INLINE IntRegister as_ints(FloatRegister a) {
    return reinterpret_cast<IntRegister>(a);
}
QLORA_LANES_INLINE Pair<IntRegister> as_ints(Pair<FloatRegister> a) {
    return {as_ints(a.low), as_ints(a.high)};
}
QLORA_LANES_INLINE FloatRegister as_floats(IntRegister a) {
    return reinterpret_cast<FloatRegister>(a);
}
QLORA_LANES_INLINE Pair<FloatRegister> as_floats(Pair<IntRegister> a) {
    return {as_floats(a.low), as_floats(a.high)};
}

/// Each two neighbours exchanged.
QLORA_LANES_INLINE FloatRegister swapped(FloatRegister a) {
#if QLORA_REGISTER_BYTES == 32
    return __builtin_shufflevector(a, a, 1, 0, 3, 2, 5, 4, 7, 6);
#else
    return __builtin_shufflevector(a, a, 1, 0, 3, 2);
#endif
}
QLORA_LANES_INLINE Pair<FloatRegister> swapped(Pair<FloatRegister> a) {
    return {swapped(a.low), swapped(a.high)};
}

template <class Lanes>
inline constexpr bool kIsPair = false;
template <class Half>
inline constexpr bool kIsPair<Pair<Half>> = true;

template <class Lanes, class Value>
QLORA_LANES_INLINE Lanes all(Value value) {
    if constexpr (kIsPair<Lanes>) {
        const auto half = all<decltype(Lanes::low)>(value);
        return {half, half};
    } else {
        return value - Lanes{};  // unlike value + 0, this keeps the sign of zero
    }
}

template <class Lanes>
QLORA_LANES_INLINE Lanes load_lanes(const float* from) {
    if constexpr (kIsPair<Lanes>) {
        using Half = decltype(Lanes::low);
        return {load_lanes<Half>(from), load_lanes<Half>(from + kLanes / 2)};
    } else {
        Lanes lanes;
        __builtin_memcpy(&lanes, from, sizeof lanes);
        return lanes;
    }
}

template <class Lanes>
QLORA_LANES_INLINE void store_lanes(float* to, Lanes lanes) {
    if constexpr (kIsPair<Lanes>) {
        store_lanes(to, lanes.low);
        store_lanes(to + kLanes / 2, lanes.high);
    } else {
        __builtin_memcpy(to, &lanes, sizeof lanes);
    }
}

// Spelled lane by lane: from a vector of half a register GCC 12 makes a detour through memory.
QLORA_LANES_INLINE Pair<DoubleRegister> widen(FloatRegister a) {
#if QLORA_REGISTER_BYTES == 32
    return {DoubleRegister{a[0], a[1], a[2], a[3]}, DoubleRegister{a[4], a[5], a[6], a[7]}};
#else
    return {DoubleRegister{a[0], a[1]}, DoubleRegister{a[2], a[3]}};
#endif
}
QLORA_LANES_INLINE Pair<Pair<DoubleRegister>> widen(Pair<FloatRegister> a) {
    return {widen(a.low), widen(a.high)};
}

QLORA_LANES_INLINE Doubles widen(Doubles a) {
    return a;
}

/// Sum of the eight lanes: the second half is added to the first until one is left.
template <class Lanes>
QLORA_LANES_INLINE double total(Lanes lanes) {
    if constexpr (kIsPair<Lanes>) {
        return total(lanes.low + lanes.high);
    } else if constexpr (sizeof lanes == 32) {
        return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
    } else {
        return lanes[0] + lanes[1];
    }
}

QLORA_LANES_INLINE float largest(Floats lanes) {
    float values[kLanes];
    store_lanes(values, lanes);
    float most = values[0];
    for (int lane = 1; lane < kLanes; ++lane) most = values[lane] > most ? values[lane] : most;
    return most;
}

/// Eight elements of a row, or its last ones. A tail goes through the same arithmetic in a padded register.
struct Whole {
    int64_t at;
};
struct Tail {
    int64_t at, count;
};

QLORA_LANES_INLINE Floats load(const float* row, Whole place, float = 0.0f) {
    return load_lanes<Floats>(row + place.at);
}
QLORA_LANES_INLINE Floats load(const float* row, Tail place, float padding = 0.0f) {
    float values[kLanes] = {padding, padding, padding, padding, padding, padding, padding, padding};
    for (int64_t i = 0; i < place.count; ++i) values[i] = row[place.at + i];
    return load_lanes<Floats>(values);
}
/// The lanes behind a tail replaced.
QLORA_LANES_INLINE Floats padded(Floats lanes, Whole, float) {
    return lanes;
}
QLORA_LANES_INLINE Floats padded(Floats lanes, Tail place, float padding) {
    float values[kLanes];
    store_lanes(values, lanes);
    for (int64_t i = place.count; i < kLanes; ++i) values[i] = padding;
    return load_lanes<Floats>(values);
}
QLORA_LANES_INLINE void store(float* row, Whole place, Floats lanes) {
    store_lanes(row + place.at, lanes);
}
QLORA_LANES_INLINE void store(float* row, Tail place, Floats lanes) {
    float values[kLanes];
    store_lanes(values, lanes);
    for (int64_t i = 0; i < place.count; ++i) row[place.at + i] = values[i];
}

/// body(place) for every place of a row.
template <class Body>
QLORA_LANES_INLINE void walk(int64_t size, Body body) {
    int64_t at = 0;
    for (; at + kLanes <= size; at += kLanes) body(Whole{at});
    if (at < size) body(Tail{at, size - at});
}

/// Sum of what term(place) gives, Floats or Doubles. Two neighbours are added first, then the pairs one after
/// another in double: the order depends on size alone. Padded lanes must give 0.
template <class Term>
QLORA_LANES_INLINE double sum_row(int64_t size, Term term) {
    Doubles sums = all<Doubles>(0.0);
    int64_t at = 0;
    for (; at + 2 * kLanes <= size; at += 2 * kLanes) {
        sums = sums + widen(term(Whole{at}) + term(Whole{at + kLanes}));
    }
    if (at + kLanes <= size) {
        sums = sums + widen(term(Whole{at}));
        at += kLanes;
    }
    if (at < size) sums = sums + widen(term(Tail{at, size - at}));
    return total(sums);
}

/// Largest of what term(place) gives, NaN aside; -infinity of nothing. Padded lanes must give -infinity.
template <class Term>
QLORA_LANES_INLINE float largest_of_row(int64_t size, Term term) {
    Floats even = all<Floats>(-__builtin_inff()), odd = even;
    int64_t at = 0;
    for (; at + 2 * kLanes <= size; at += 2 * kLanes) {
        even = larger(term(Whole{at}), even);
        odd = larger(term(Whole{at + kLanes}), odd);
    }
    if (at + kLanes <= size) {
        even = larger(term(Whole{at}), even);
        at += kLanes;
    }
    if (at < size) odd = larger(term(Tail{at, size - at}), odd);
    return largest(larger(even, odd));
}

}  // namespace qlora::kernels::cpu::QLORA_PATH
