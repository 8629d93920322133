#pragma once

#include "qlora/kernels/exp_math.h"
#include "qlora/kernels/layer_kinds.h"

/// Activations and their slopes for any `Lanes` (exp_math.h), with the same bits for all of them. Infinite
/// and large arguments give the limits, never infinity times 0.
namespace qlora::kernels {

template <class Lanes>
struct Activated {
    typename Lanes::Floats value, slope;
};

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

/// NaN passes.
template <class Lanes>
QLORA_HOST_DEVICE QLORA_LANES_INLINE typename Lanes::Floats between(float least, float most,
                                                                    typename Lanes::Floats x) {
    return Lanes::larger(Lanes::all(least), Lanes::smaller(Lanes::all(most), x));
}

/// x * sigmoid(x) and s (1 + x (1 - s)).
template <class Lanes>
QLORA_HOST_DEVICE QLORA_LANES_INLINE Activated<Lanes> silu(typename Lanes::Floats x) {
    constexpr float kEnds = 105.0f;  // beyond, the smaller part of the sigmoid is 0
    const Sigmoid<Lanes> s = sigmoid<Lanes>(x);
    const auto bounded = between<Lanes>(-kEnds, kEnds, x);
    return {Lanes::larger(Lanes::all(-kEnds), x) * s.value,
            s.value * (Lanes::all(1.0f) + bounded * s.complement)};
}

/// x / 2 (1 + tanh(u)) = x * sigmoid(z) with z = 2u = x (a + b x^2), and s (1 + x (1 - s) dz/dx). The error
/// of z is |z| * 2^-23 at most, and the small values of negative x have as large a relative one.
template <class Lanes>
QLORA_HOST_DEVICE QLORA_LANES_INLINE Activated<Lanes> gelu_tanh(typename Lanes::Floats x) {
    using Floats = typename Lanes::Floats;
    constexpr float kA = 0x1.988454p+0f;  // 2 sqrt(2 / pi)
    constexpr float kB = 0x1.2444f2p-4f;  // 0.044715 a
    constexpr float kEnds = 11.0f;        // z is 112 there
    const Floats bounded = between<Lanes>(-kEnds, kEnds, x);
    const Floats cubic = Lanes::all(kB) * (bounded * bounded);
    const Sigmoid<Lanes> s = sigmoid<Lanes>(bounded * (Lanes::all(kA) + cubic));
    const Floats slope_of_z = Lanes::all(kA) + Lanes::all(3.0f) * cubic;
    return {Lanes::larger(Lanes::all(-kEnds), x) * s.value,
            s.value * (Lanes::all(1.0f) + bounded * s.complement * slope_of_z)};
}

/// x F(x) and F(x) + x f(x), with F and f the normal distribution and its density. F(-|x|) = e^(-x^2 / 2) r,
/// where r = t p(t), t = 1 / (1 + 5/16 |x|), p fitted to the least relative error (1.0e-8) for |x| < 14.5.
/// The error of x^2 / 2 is a relative one of F(x) for negative x: x^2 * 2^-25.
template <class Lanes>
QLORA_HOST_DEVICE QLORA_LANES_INLINE Activated<Lanes> gelu(typename Lanes::Floats x) {
    using Floats = typename Lanes::Floats;
    constexpr float kEnds = 14.5f;              // e^(-x^2 / 2) is 0 there
    constexpr float kDensity = 0x1.988454p-2f;  // 1 / sqrt(2 pi)
    const Floats bounded = between<Lanes>(-kEnds, kEnds, x);
    const Floats magnitude = Lanes::as_floats(Lanes::as_ints(bounded) & Lanes::all_ints(~kFloatSignBit));
    const Floats e = exp_nonpositive<Lanes>(Lanes::all(-0.5f) * bounded * bounded);
    const Floats t = Lanes::all(1.0f) / (Lanes::all(1.0f) + Lanes::all(0.3125f) * magnitude);
    Floats p = Lanes::all(-0x1.37c21cp-6f);
    p = p * t + Lanes::all(0x1.768fa0p-4f);
    p = p * t + Lanes::all(-0x1.357688p-3f);
    p = p * t + Lanes::all(0x1.304f7ap-4f);
    p = p * t + Lanes::all(-0x1.4b583cp-9f);
    p = p * t + Lanes::all(0x1.c6e052p-5f);
    p = p * t + Lanes::all(0x1.7108e0p-4f);
    p = p * t + Lanes::all(0x1.ca44b6p-4f);
    p = p * t + Lanes::all(0x1.fefa66p-4f);
    p = p * t + Lanes::all(0x1.fea118p-4f);
    const Floats tail = p * t * e;
    const Floats below = Lanes::select(x < Lanes::all(0.0f), tail, Lanes::all(1.0f) - tail);
    return {Lanes::larger(Lanes::all(-kEnds), x) * below, below + bounded * e * Lanes::all(kDensity)};
}

template <Activation kKind, class Lanes>
QLORA_HOST_DEVICE QLORA_LANES_INLINE Activated<Lanes> activated(typename Lanes::Floats x) {
    if constexpr (kKind == Activation::kSilu) {
        return silu<Lanes>(x);
    } else if constexpr (kKind == Activation::kGeluTanh) {
        return gelu_tanh<Lanes>(x);
    } else {
        static_assert(kKind == Activation::kGelu);
        return gelu<Lanes>(x);
    }
}

/// Kind and gating as types, for kernels that are compiled for each.
template <Activation kKindOf, bool kIsGated>
struct ActivationForm {
    static constexpr Activation kKind = kKindOf;
    static constexpr bool kGated = kIsGated;
};

/// action(ActivationForm of these); false for a kind that does not exist.
template <class Action>
bool with_activation_form(Activation kind, bool gated, const Action& action) {
    const auto with_kind = [&]<Activation kKind>() {
        if (gated) {
            action(ActivationForm<kKind, true>{});
        } else {
            action(ActivationForm<kKind, false>{});
        }
        return true;
    };
    switch (kind) {
        case Activation::kSilu:
            return with_kind.template operator()<Activation::kSilu>();
        case Activation::kGeluTanh:
            return with_kind.template operator()<Activation::kGeluTanh>();
        case Activation::kGelu:
            return with_kind.template operator()<Activation::kGelu>();
    }
    return false;
}

}  // namespace qlora::kernels
