#pragma once

#include <cstdint>

namespace qlora::kernels {

inline constexpr int kSumLanes = 256;

/// Sum of `term(0) .. term(n - 1)` in double, in an order that one CUDA block of 256 threads repeats exactly:
/// lane l adds terms l, l + 256, l + 512, ... one after another; then for stride = 128, 64, .. 1 lane l <
/// stride adds lane l + stride.
template <class Term>
double fixed_order_sum(int64_t n, Term term) {
    double lanes[kSumLanes] = {};
    int64_t row = 0;
    for (; row + kSumLanes <= n; row += kSumLanes) {
        for (int lane = 0; lane < kSumLanes; ++lane) lanes[lane] += term(row + lane);
    }
    for (int lane = 0; row + lane < n; ++lane) lanes[lane] += term(row + lane);
    for (int stride = kSumLanes / 2; stride > 0; stride /= 2) {
        for (int lane = 0; lane < stride; ++lane) lanes[lane] += lanes[lane + stride];
    }
    return lanes[0];
}

}  // namespace qlora::kernels
