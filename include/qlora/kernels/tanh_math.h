#pragma once

#include "qlora/kernels/exp_math.h"

namespace qlora::kernels {

/// tanh for any `Lanes` (exp_math.h), with the same bits for all of them: within 4 roundings of 2^-24, small
/// arguments included. Below 0.625 x + x^3 p(x^2), p fitted to the least relative error (4.1e-9); above it
/// (1 - e) / (1 + e) with e = e^-2|x|, which has no cancellation there.
template <class Lanes>
QLORA_HOST_DEVICE QLORA_LANES_INLINE typename Lanes::Floats tanh_lanes(typename Lanes::Floats x) {
    using Floats = typename Lanes::Floats;
    const auto sign = Lanes::as_ints(x) & Lanes::all_ints(kFloatSignBit);
    const Floats magnitude = Lanes::as_floats(Lanes::as_ints(x) & Lanes::all_ints(~kFloatSignBit));
    const Floats e = exp_nonpositive<Lanes>(Lanes::all(-2.0f) * magnitude);
    const Floats of_large = (Lanes::all(1.0f) - e) / (Lanes::all(1.0f) + e);
    const Floats square = magnitude * magnitude;
    Floats p = Lanes::all(-0x1.76ac02p-8f);
    p = p * square + Lanes::all(0x1.5256d2p-6f);
    p = p * square + Lanes::all(-0x1.b84448p-5f);
    p = p * square + Lanes::all(0x1.110768p-3f);
    p = p * square + Lanes::all(-0x1.555534p-2f);
    const Floats of_small = magnitude + magnitude * (square * p);
    const Floats found = Lanes::select(magnitude < Lanes::all(0.625f), of_small, of_large);
    return Lanes::as_floats(Lanes::as_ints(found) | sign);
}

}  // namespace qlora::kernels
