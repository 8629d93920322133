#pragma once

#include "qlora/kernels/exp_math.h"

/// SiLU and its slope for any `Lanes` (exp_math.h), with the same bits for all of them.
namespace qlora::kernels {

/// Logistic function and 1 minus it, neither by subtraction: e^-|x| never overflows.
template <class Lanes>
struct Sigmoid {
    typename Lanes::Floats value, complement;
};

template <class Lanes>
QLORA_HOST_DEVICE QLORA_LANES_INLINE Sigmoid<Lanes> sigmoid(typename Lanes::Floats x) {
    using Floats = typename Lanes::Floats;
    const Floats minus_magnitude = Lanes::as_floats(Lanes::as_ints(x) | Lanes::all_ints(kFloatSignBit));
    const Floats e = exp_nonpositive<Lanes>(minus_magnitude);
    const Floats larger_part = Lanes::all(1.0f) / (Lanes::all(1.0f) + e);
    const Floats smaller_part = e * larger_part;
    const auto negative = x < Lanes::all(0.0f);
    return {Lanes::select(negative, smaller_part, larger_part),
            Lanes::select(negative, larger_part, smaller_part)};
}

// Beyond it the smaller part of the sigmoid is 0, which an infinite x would turn into NaN.
inline constexpr float kSigmoidEnds = 105.0f;

/// x * sigmoid(x).
template <class Lanes>
QLORA_HOST_DEVICE QLORA_LANES_INLINE typename Lanes::Floats silu(typename Lanes::Floats x,
                                                                 const Sigmoid<Lanes>& s) {
    return Lanes::larger(Lanes::all(-kSigmoidEnds), x) * s.value;
}

/// s (1 + x (1 - s)).
template <class Lanes>
QLORA_HOST_DEVICE QLORA_LANES_INLINE typename Lanes::Floats silu_slope(typename Lanes::Floats x,
                                                                       const Sigmoid<Lanes>& s) {
    const auto bounded =
        Lanes::larger(Lanes::all(-kSigmoidEnds), Lanes::smaller(Lanes::all(kSigmoidEnds), x));
    return s.value * (Lanes::all(1.0f) + bounded * s.complement);
}

}  // namespace qlora::kernels
