#if defined(__x86_64__)
// First, so that nothing but this file's own code is compiled for avx2.
#include <immintrin.h>

#include "sgemm_path.h"

#if defined(__clang__)
#pragma clang attribute push([[gnu::target("avx2,fma")]], apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace qlora::kernels::cpu::avx2 {

typedef float Register __attribute__((vector_size(32)));

[[gnu::always_inline]] static inline Register fused(Register a, Register b, Register c) {
    return _mm256_fmadd_ps(a, b, c);
}

[[gnu::always_inline]] static inline Register all(float value) {
    return _mm256_set1_ps(value);
}

}  // namespace qlora::kernels::cpu::avx2

#define QLORA_PATH avx2
// Twelve sums, two registers of b and one of a: fifteen of sixteen registers.
#define QLORA_TILE_ROWS 4
#define QLORA_REGISTER_BYTES 32
#include "sgemm_impl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
