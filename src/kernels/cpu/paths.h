#pragma once

#include "qlora/kernels/adamw_8bit_math.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/dynamic_code.h"
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

inline bool runs_avx512() {
    return kHasAvx2Code && instruction_set() >= InstructionSet::kAvx512;
}
inline bool runs_avx2() {
    return kHasAvx2Code && instruction_set() >= InstructionSet::kAvx2;
}

/// Scale of a block.
inline float absmax_of(const Nf4View& view, int64_t block) {
    if (view.absmax.values != nullptr) return view.absmax.values[block];
    return decode_absmax(kSignedDynamicMap.value, view.absmax.codes[block],
                         view.absmax.nested_absmax[block / kNestedBlocksize], view.absmax.offset);
}

/// Whole blocks from `begin` on, up to `end` or to one whose scale is not finite, which is returned.
/// `out[0]` is where the first goes.
using DequantizeBlocks = int64_t(const Nf4View& view, int64_t begin, int64_t end, void* out, FloatType type);

namespace avx512 {
DequantizeBlocks dequantize_blocks_nf4;
}

namespace avx2 {

DequantizeBlocks dequantize_blocks_nf4;
int64_t quantize_blockwise_nf4(const QuantizeNf4Params& params, int64_t block_begin, int64_t block_end);
void quantize_absmax(const QuantizeAbsmaxParams& params, int64_t nested_begin, int64_t nested_end);
void dequantize_absmax(const AbsmaxView& absmax, int64_t block_begin, int64_t block_end, float* out);
void adamw_step(float* p, const float* g, float* m, float* v, int64_t n, const AdamwFactors& factors);
void adamw_8bit_step(const Adamw8bitParams& params, int64_t block_begin, int64_t block_end,
                     const Adamw8bitFactors& factors);

}  // namespace avx2
}  // namespace qlora::kernels::cpu
