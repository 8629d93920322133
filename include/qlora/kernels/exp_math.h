#pragma once

#include <cstdint>

#include "qlora/kernels/float16.h"
#include "qlora/kernels/host_device.h"

/// The exponential of the kernels, written once for one float and for the registers of the CPU's paths: only
/// IEEE operations, each rounded by itself (no fused multiply-add), so that all of them give the same bits.
namespace qlora::kernels {

/// A path's registers must not leave it through a function of their own.
#define QLORA_LANES_INLINE [[gnu::always_inline]] inline

/// One float, as `Lanes` of the functions below. Registers of several bring the same names and arithmetic.
struct OneLane {
    using Floats = float;
    using Ints = uint32_t;
    QLORA_HOST_DEVICE static constexpr Floats all(float value) { return value; }
    QLORA_HOST_DEVICE static constexpr Ints all_ints(uint32_t value) { return value; }
    QLORA_HOST_DEVICE static constexpr Ints as_ints(Floats a) { return float_bits(a); }
    QLORA_HOST_DEVICE static constexpr Floats as_floats(Ints a) { return float_from_bits(a); }
    QLORA_HOST_DEVICE static constexpr Floats select(bool mask, Floats yes, Floats no) {
        return mask ? yes : no;
    }
    /// `second` where the comparison fails, so where either is NaN.
    QLORA_HOST_DEVICE static constexpr Floats larger(Floats first, Floats second) {
        return second < first ? first : second;
    }
    QLORA_HOST_DEVICE static constexpr Floats smaller(Floats first, Floats second) {
        return second > first ? first : second;
    }
};

/// e^x for x <= 0 (in fact up to 90) or NaN; denormal results included, 0 below -103.98. Within 1 ulp (0.991
/// at most over all floats). x = n ln 2 + r with |r| <= ln 2 / 2; e^r = 1 + r + r^2 q(r), q fitted to the
/// least relative error (3.2e-9).
template <class Lanes>
QLORA_HOST_DEVICE QLORA_LANES_INLINE typename Lanes::Floats exp_nonpositive(typename Lanes::Floats x) {
    using Floats = typename Lanes::Floats;
    using Ints = typename Lanes::Ints;
    constexpr float kLog2E = 0x1.715476p+0f;
    constexpr float kLn2High = 355.0f / 512.0f;  // 9 bits: n * kLn2High is exact
    constexpr float kLn2Low = -0.00021219444f;   // ln 2 - kLn2High
    // Adding 1.5 * 2^23 rounds to an integer, which the low bits then hold: n plus twice the exponent bias.
    constexpr float kRounder = 12582912.0f + 254.0f;
    constexpr int kMantissaBits = 23;
    // Keeps n within what two factors can scale by; NaN passes.
    x = Lanes::larger(Lanes::all(-105.0f), x);
    const Floats rounded = x * Lanes::all(kLog2E) + Lanes::all(kRounder);
    const Floats n = rounded - Lanes::all(kRounder);
    const Floats r = (x - n * Lanes::all(kLn2High)) - n * Lanes::all(kLn2Low);
    Floats q = Lanes::all(0x1.6a5428p-10f);
    q = q * r + Lanes::all(0x1.12398cp-7f);
    q = q * r + Lanes::all(0x1.5558aap-5f);
    q = q * r + Lanes::all(0x1.555492p-3f);
    q = q * r + Lanes::all(0x1.fffffcp-2f);
    const Floats e = (q * (r * r) + r) + Lanes::all(1.0f);
    // 2^n as a product: n + 254 = half + rest, each the biased exponent of a normal number.
    const Ints bits = Lanes::as_ints(rounded);
    const Ints half = (bits << (kMantissaBits - 1)) & Lanes::all_ints(kFloatInfinityBits);
    const Ints rest = (bits << kMantissaBits) - half;
    return (e * Lanes::as_floats(half)) * Lanes::as_floats(rest);
}

/// e^x for every x: infinity above 88.73.
template <class Lanes>
QLORA_HOST_DEVICE QLORA_LANES_INLINE typename Lanes::Floats exp_lanes(typename Lanes::Floats x) {
    return exp_nonpositive<Lanes>(Lanes::smaller(Lanes::all(90.0f), x));
}

}  // namespace qlora::kernels
