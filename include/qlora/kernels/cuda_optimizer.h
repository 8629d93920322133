#pragma once

#include <cstdint>

#include "qlora/kernels/adamw_math.h"
#include "qlora/kernels/kernel_backend.h"

/// The optimizer step over all trained tensors at once. Errors and streams as in cuda_kernels.h.
namespace qlora::kernels {

/// One trained tensor; the moments are fp32 (`m`, `v`) or 8-bit codes with one scale a block of 256, the
/// others null.
struct AdamwTensor {
    float* p;        ///< [n]
    const float* g;  ///< [n]
    float* m;        ///< [n]
    float* v;
    uint8_t* m_codes;  ///< [n], into the signed dynamic map
    uint8_t* v_codes;  ///< [n], into the unsigned one
    float* m_absmax;   ///< [ceil(n / 256)]
    float* v_absmax;
    int64_t n;
    int32_t decays;  ///< whether weight decay applies
};

/// Elements of one tensor that a CUDA block takes: number * kAdamwChunk on. Whole blocks of 8-bit moments.
struct AdamwChunk {
    int32_t tensor;
    int32_t number;
};
inline constexpr int64_t kAdamwChunk = 2048;

/// All of it in device memory: the tables are made once, as the tensors stay where they are.
struct AdamwTables {
    const AdamwTensor* tensors;
    const AdamwChunk* chunks;  ///< every chunk of every tensor, in order
    int64_t chunk_count;
};

}  // namespace qlora::kernels

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

/// adamw_update on every element, in one launch.
void adamw_step(const AdamwTables& tables, const AdamwSettings& settings, Stream stream);

/// *sum becomes the sum of squares of all gradients in double, in a fixed order; it is finite exactly when
/// every gradient is. `partial` [chunk_count] is scratch.
void gradient_sum_of_squares(const AdamwTables& tables, double* partial, double* sum, Stream stream);

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
