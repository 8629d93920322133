// Shared per-element math that no kernel uses yet, compiled for the device: a compile-time proof that these
// headers stay free of host-only code. One thread an element.
#include <cstdint>

#include "qlora/kernels/adamw_math.h"

namespace qlora::kernels::cuda {

/// One AdamW update an element.
__global__ void adamw_elements(AdamwFactors factors, const float* g, float* p, float* m, float* v,
                               int64_t n) {
    const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
    if (i < n) adamw_update(factors, g[i], p[i], m[i], v[i]);
}

}  // namespace qlora::kernels::cuda
