#pragma once

#include "qlora/kernels/layer_kinds.h"
#include "qlora/kernels/tanh_math.h"

/// What stands between the product of the output head and the softmax, for any `Lanes` (exp_math.h).
namespace qlora::kernels {

template <class Lanes>
struct CurvedLogit {
    typename Lanes::Floats value;
    typename Lanes::Floats tanh;  ///< which the gradient needs; of a softcap alone
};

/// `rounded` is what a tensor of the logits' type makes of each result, as in transformers.
template <class Lanes, class Round>
QLORA_HOST_DEVICE QLORA_LANES_INLINE CurvedLogit<Lanes> curved(typename Lanes::Floats logit,
                                                               const LogitCurve& curve,
                                                               const Round& rounded) {
    const auto scaled = rounded(logit * Lanes::all(curve.scale));
    if (curve.softcap == 0.0f) return {scaled, scaled};
    const auto cap = Lanes::all(curve.softcap);
    const auto tanh = rounded(tanh_lanes<Lanes>(rounded(scaled / cap)));
    return {rounded(tanh * cap), tanh};
}

/// The gradient of the head's own logit from that of the curved one.
template <class Lanes, class Round>
QLORA_HOST_DEVICE QLORA_LANES_INLINE typename Lanes::Floats curve_gradient(typename Lanes::Floats gradient,
                                                                           typename Lanes::Floats tanh,
                                                                           const LogitCurve& curve,
                                                                           const Round& rounded) {
    if (curve.softcap != 0.0f) {
        const auto cap = Lanes::all(curve.softcap);
        const auto slope = Lanes::all(1.0f) - tanh * tanh;
        gradient = rounded(rounded(rounded(gradient * cap) * slope) / cap);
    }
    return rounded(gradient * Lanes::all(curve.scale));
}

}  // namespace qlora::kernels
