#pragma once

#include "elements.cuh"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/codebook.h"
#include "qlora/kernels/dynamic_code.h"

/// Reading NF4 tensors in a kernel.
namespace qlora::kernels::QLORA_KERNEL_BACKEND {

/// Threads look values up in the dynamic map at random places, so it is plain device memory, not constant
/// memory.
static __device__ const DynamicMap kDeviceSignedMap = make_dynamic_map(true);

/// The 16 values, in shared memory: an index known only at run time would put a table into local memory. All
/// threads of the block call before a barrier.
__device__ inline void fill_nf4_table(float (&table)[kNf4Codes]) {
    if (threadIdx.x < kNf4Codes) table[threadIdx.x] = decode_nf4(static_cast<int>(threadIdx.x));
}

__device__ inline float load_absmax(const AbsmaxView& absmax, int64_t block) {
    if (absmax.values != nullptr) return absmax.values[block];
    return decode_absmax(kDeviceSignedMap.value, absmax.codes[block],
                         absmax.nested_absmax[block / kNestedBlocksize], absmax.offset);
}

/// Values 16 * group .. + 15 of a tensor whose packed codes are aligned to 8 bytes.
__device__ inline void decode_group(const uint8_t* packed, int64_t group, const float (&table)[kNf4Codes],
                                    float absmax, float (&values)[kGroup]) {
    const uint2 words = load_vector<uint2>(packed + group * (kGroup / 2));
#pragma unroll
    for (int byte = 0; byte < kGroup / 2; ++byte) {
        const uint32_t word = byte < 4 ? words.x : words.y;
        const uint8_t pair = static_cast<uint8_t>(word >> (8 * (byte % 4)));
        values[2 * byte] = table[first_code(pair)] * absmax;
        values[2 * byte + 1] = table[second_code(pair)] * absmax;
    }
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
