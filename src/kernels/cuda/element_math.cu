// Shared per-element math that no kernel uses yet, compiled for the device: a compile-time proof that these
// headers stay free of host-only code. One thread an element.
#include <cstdint>

#include "qlora/kernels/philox.h"

namespace qlora::kernels::cuda {

/// x scaled by 1 / (1 - p) where dropout keeps it, else 0.
__global__ void dropout_elements(const float* in, float* out, int64_t n, uint64_t seed, uint32_t step,
                                 uint32_t site, float p) {
    const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
    if (i < n)
        out[i] = dropout_keep(seed, step, site, static_cast<uint64_t>(i), p) ? in[i] / (1.0f - p) : 0.0f;
}

}  // namespace qlora::kernels::cuda
