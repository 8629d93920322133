#pragma once

#include "launch.cuh"
#include "qlora/kernels/fixed_order_sum.h"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

/// fixed_order_sum by one CUDA block of kSumLanes threads: all of them call and all get the sum, which is in
/// lanes[0]. A second call with the same lanes needs a barrier before it.
template <class Term>
__device__ double block_sum(int64_t n, double (&lanes)[kSumLanes], Term term) {
    const int thread = static_cast<int>(threadIdx.x);
    double sum = 0.0;
#pragma unroll 8
    for (int64_t i = thread; i < n; i += kSumLanes) sum += term(i);
    lanes[thread] = sum;
    __syncthreads();
    for (int stride = kSumLanes / 2; stride > 0; stride /= 2) {
        if (thread < stride) lanes[thread] += lanes[thread + stride];
        __syncthreads();
    }
    return lanes[0];
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
