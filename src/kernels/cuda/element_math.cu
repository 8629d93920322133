// The shared per-element math compiled for the device: what the kernels of this folder will call. One thread
// an element; a compile-time proof that every header below stays free of host-only code.
#include <cstdint>

#include "qlora/kernels/adamw_math.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/codebook.h"
#include "qlora/kernels/dynamic_code.h"
#include "qlora/kernels/float16.h"
#include "qlora/kernels/philox.h"

namespace qlora::kernels::cuda {

/// out[i] = the NF4 code of in[i] (already scaled to [-1, 1]).
__global__ void encode_elements(const float* in, uint8_t* out, int64_t n) {
    const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
    if (i < n) out[i] = static_cast<uint8_t>(encode_nf4(in[i]));
}

/// x scaled by 1 / (1 - p) where dropout keeps it, else 0.
__global__ void dropout_elements(const float* in, float* out, int64_t n, uint64_t seed, uint32_t step,
                                 uint32_t site, float p) {
    const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
    if (i < n)
        out[i] = dropout_keep(seed, step, site, static_cast<uint64_t>(i), p) ? in[i] / (1.0f - p) : 0.0f;
}

/// One AdamW update an element.
__global__ void adamw_elements(AdamwFactors factors, const float* g, float* p, float* m, float* v,
                               int64_t n) {
    const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
    if (i < n) adamw_update(factors, g[i], p[i], m[i], v[i]);
}

}  // namespace qlora::kernels::cuda
