#pragma once

#include "launch.cuh"

/// Reductions over a warp; all 32 lanes call and all get the result. The order of a sum is fixed: lanes are
/// added pairwise at distances 16, 8, 4, 2, 1.
namespace qlora::kernels::QLORA_KERNEL_BACKEND {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

/// NaN counts as less than everything.
template <class T>
__device__ T warp_max(T value) {
    for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
        const T other = __shfl_xor_sync(kAllLanes, value, distance);
        value = value < other ? other : value;
    }
    return value;
}

template <class T>
__device__ T warp_min(T value) {
    for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
        const T other = __shfl_xor_sync(kAllLanes, value, distance);
        value = other < value ? other : value;
    }
    return value;
}

template <class T>
__device__ T warp_sum(T value) {
    for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(kAllLanes, value, distance);
    }
    return value;
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
