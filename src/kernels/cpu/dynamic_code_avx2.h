#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>

/// 8-bit dynamic codes (dynamic_code.h), eight at once.
namespace qlora::kernels::cpu::avx2 {

[[gnu::target("avx2"), gnu::always_inline]] inline __m256i select(__m256 mask, __m256i if_true,
                                                                  __m256i if_false) {
    return _mm256_blendv_epi8(if_false, if_true, _mm256_castps_si256(mask));
}

/// The search of encode_dynamic on eight values at once; `x` holds no NaN.
[[gnu::target("avx2"), gnu::always_inline]] inline __m256i encode_dynamic8(const float* map, __m256 x) {
    __m256i below = _mm256_setzero_si256();
    __m256i above = _mm256_set1_epi32(255);
    __m256i pivot = _mm256_set1_epi32(127);
    for (int step = 64; step > 0; step /= 2) {
        const __m256 greater = _mm256_cmp_ps(x, _mm256_i32gather_ps(map, pivot, 4), _CMP_GT_OQ);
        below = select(greater, pivot, below);
        above = select(greater, above, pivot);
        const __m256i steps = _mm256_set1_epi32(step);
        pivot = select(greater, _mm256_add_epi32(pivot, steps), _mm256_sub_epi32(pivot, steps));
    }
    const __m256 value = _mm256_i32gather_ps(map, pivot, 4);
    const __m256 greater = _mm256_cmp_ps(x, value, _CMP_GT_OQ);
    const __m256i neighbour = select(greater, above, below);
    const __m256 sum = _mm256_add_ps(_mm256_i32gather_ps(map, neighbour, 4), value);
    const __m256 midpoint = _mm256_mul_ps(sum, _mm256_set1_ps(0.5f));
    const __m256 beyond = _mm256_blendv_ps(_mm256_cmp_ps(x, midpoint, _CMP_LT_OQ),
                                           _mm256_cmp_ps(x, midpoint, _CMP_GT_OQ), greater);
    return select(beyond, neighbour, pivot);
}

/// Eight codes in int32 lanes become eight bytes.
[[gnu::target("avx2"), gnu::always_inline]] inline void store_codes8(uint8_t* to, __m256i codes) {
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
}

/// The map's values of eight codes.
[[gnu::target("avx2"), gnu::always_inline]] inline __m256 decode_dynamic8(const float* map,
                                                                          const uint8_t* codes) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
    return _mm256_i32gather_ps(map, _mm256_cvtepu8_epi32(bytes), 4);
}

}  // namespace qlora::kernels::cpu::avx2
#endif
