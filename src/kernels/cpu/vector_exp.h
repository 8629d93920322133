#pragma once

#include "vector_lanes.h"

namespace qlora::kernels::cpu::QLORA_PATH {

/// e^x for x <= 0 (in fact up to 90) or NaN; denormal results included, 0 below -103.98. Within 1 ulp (0.991
/// at most over all floats). x = n ln 2 + r with |r| <= ln 2 / 2; e^r = 1 + r + r^2 q(r), q fitted to the
/// least relative error (3.2e-9).
QLORA_LANES_INLINE Floats exp_nonpositive(Floats x) {
    constexpr float kLog2E = 0x1.715476p+0f;
    constexpr float kLn2High = 355.0f / 512.0f;  // 9 bits: n * kLn2High is exact
    constexpr float kLn2Low = -0.00021219444f;   // ln 2 - kLn2High
    // Adding 1.5 * 2^23 rounds to an integer, which the low bits then hold: n plus twice the exponent bias.
    constexpr float kRounder = 12582912.0f + 254.0f;
    constexpr uint32_t kExponentBits = 0x7F800000;
    constexpr int kMantissaBits = 23;
    // Keeps n within what two factors can scale by; NaN passes.
    x = larger(all<Floats>(-105.0f), x);
    const Floats rounded = x * all<Floats>(kLog2E) + all<Floats>(kRounder);
    const Floats n = rounded - all<Floats>(kRounder);
    const Floats r = (x - n * all<Floats>(kLn2High)) - n * all<Floats>(kLn2Low);
    Floats q = all<Floats>(0x1.6a5428p-10f);
    q = q * r + all<Floats>(0x1.12398cp-7f);
    q = q * r + all<Floats>(0x1.5558aap-5f);
    q = q * r + all<Floats>(0x1.555492p-3f);
    q = q * r + all<Floats>(0x1.fffffcp-2f);
    const Floats e = (q * (r * r) + r) + all<Floats>(1.0f);
    // 2^n as a product: n + 254 = half + rest, each the biased exponent of a normal number.
    const Ints half = (as_ints(rounded) << (kMantissaBits - 1)) & all<Ints>(kExponentBits);
    const Ints rest = (as_ints(rounded) << kMantissaBits) - half;
    return (e * as_floats(half)) * as_floats(rest);
}

/// e^x for every x: infinity above 88.73.
QLORA_LANES_INLINE Floats exp_lanes(Floats x) {
    return exp_nonpositive(smaller(all<Floats>(90.0f), x));
}

}  // namespace qlora::kernels::cpu::QLORA_PATH
