#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "qlora/kernels/adamw_math.h"
#include "qlora/kernels/kernel_backend.h"

/// The optimizer step over all trained tensors at once. Errors and streams as in cuda_kernels.h.
namespace qlora::kernels {

/// One trained tensor; the moments are fp32 (`m`, `v`) or 8-bit codes with one scale a block of
/// kAdamwBlocksize (adamw_8bit_math.h), the others null.
struct AdamwTensor {
    float* p;        ///< [n]
    const float* g;  ///< [n]
    float* m;        ///< [n]
    float* v;
    uint8_t* m_codes;  ///< [n], into the signed dynamic map
    uint8_t* v_codes;  ///< [n], into the unsigned one
    float* m_absmax;   ///< [ceil(n / kAdamwBlocksize)]
    float* v_absmax;
    int64_t n;
    int32_t decays;  ///< whether weight decay applies
    int32_t group;   ///< of AdamwSettings::rates
};

/// Elements of one tensor that a CUDA block takes: number * kAdamwChunk on. Whole blocks of 8-bit moments.
struct AdamwChunk {
    int32_t tensor;
    int32_t number;
};
inline constexpr int64_t kAdamwChunk = 2048;

/// Every chunk of every tensor, in order.
inline std::vector<AdamwChunk> adamw_chunks(const std::vector<AdamwTensor>& tensors) {
    std::vector<AdamwChunk> chunks;
    for (std::size_t tensor = 0; tensor < tensors.size(); ++tensor) {
        for (int32_t number = 0; number * kAdamwChunk < tensors[tensor].n; ++number) {
            chunks.push_back({static_cast<int32_t>(tensor), number});
        }
    }
    return chunks;
}

/// All of it in device memory: the tables are made once, as the tensors stay where they are.
struct AdamwTables {
    const AdamwTensor* tensors;
    const AdamwChunk* chunks;  ///< of adamw_chunks
    int64_t chunk_count;
};

}  // namespace qlora::kernels

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

/// The bytes of cpu::adamw_step or cpu::adamw_8bit_step for every tensor, in one launch. Buffers may start at
/// any element; accesses are wide where p, g and fp32 moments are aligned to 16 bytes, codes to 8.
void adamw_step(const AdamwTables& tables, const AdamwSettings& settings, Stream stream);

/// *sum becomes the sum of squares of all gradients in double: fixed_order_sum within each chunk and then
/// over the chunks, in two launches. It is finite exactly when every gradient is. `partial` [chunk_count] is
/// scratch.
void gradient_sum_of_squares(const AdamwTables& tables, double* partial, double* sum, Stream stream);

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
