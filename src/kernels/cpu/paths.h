#pragma once

#include "qlora/kernels/adamw_8bit_math.h"
#include "qlora/kernels/instruction_set.h"
#include "qlora/kernels/kernels.h"

/// The vector paths behind the entry points in kernels.h. Each function has the contract of its namesake
/// there, with arguments already checked.
namespace qlora::kernels::cpu {

#if defined(__x86_64__)
inline constexpr bool kHasAvx2Code = true;
#else
inline constexpr bool kHasAvx2Code = false;
#endif

inline bool runs_avx2() {
    return kHasAvx2Code && instruction_set() >= InstructionSet::kAvx2;
}

namespace avx2 {

int64_t quantize_blockwise_nf4(const QuantizeNf4Params& params, int64_t block_begin, int64_t block_end);
void quantize_absmax(const QuantizeAbsmaxParams& params, int64_t nested_begin, int64_t nested_end);
void dequantize_absmax(const AbsmaxView& absmax, int64_t block_begin, int64_t block_end, float* out);
void adamw_step(float* p, const float* g, float* m, float* v, int64_t n, const AdamwFactors& factors);
void adamw_8bit_step(const Adamw8bitParams& params, int64_t block_begin, int64_t block_end,
                     const Adamw8bitFactors& factors);

/// `count` values of one block from `packed[0]` on; count is a multiple of 16, absmax finite.
void dequantize_run_nf4(const uint8_t* packed, int64_t count, float absmax, void* out, FloatType type);

}  // namespace avx2
}  // namespace qlora::kernels::cpu
