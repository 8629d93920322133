#if defined(__x86_64__)
// First, so that nothing but this file's own code is compiled for avx512.
#include <immintrin.h>

#include "sgemm_path.h"

#if defined(__clang__)
#pragma clang attribute push([[gnu::target("avx512f,avx2,fma")]], apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma")
#endif

namespace qlora::kernels::cpu::avx512 {

typedef float Register __attribute__((vector_size(64)));

[[gnu::always_inline]] static inline Register fused(Register a, Register b, Register c) {
    return _mm512_fmadd_ps(a, b, c);
}

[[gnu::always_inline]] static inline Register all(float value) {
    return _mm512_set1_ps(value);
}

}  // namespace qlora::kernels::cpu::avx512

#define QLORA_PATH avx512
// 24 sums and two registers of b; a comes from memory.
#define QLORA_TILE_ROWS 8
#define QLORA_REGISTER_BYTES 64
#include "sgemm_impl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
