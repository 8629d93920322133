#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "paths.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/dynamic_code.h"

namespace qlora::kernels::cpu::avx2 {

namespace {

[[gnu::target("avx2"), gnu::always_inline]] inline __m256i select(__m256 mask, __m256i if_true,
                                                                  __m256i if_false) {
    return _mm256_blendv_epi8(if_false, if_true, _mm256_castps_si256(mask));
}

/// The search of encode_dynamic on eight values at once; `x` holds no NaN.
[[gnu::target("avx2"), gnu::always_inline]] inline __m256i encode8(const float* map, __m256 x) {
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

[[gnu::target("avx2")]] void quantize_nested_block(const QuantizeAbsmaxParams& params, int64_t nested) {
    const float* map = kSignedDynamicMap.value;
    const int64_t begin = nested * kNestedBlocksize;
    const int64_t end = std::min<int64_t>(begin + kNestedBlocksize, params.blocks);
    const __m256 offset = _mm256_set1_ps(params.offset);
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 largest8 = _mm256_setzero_ps();
    int64_t i = begin;
    for (; i + 8 <= end; i += 8) {
        const __m256 difference = _mm256_sub_ps(_mm256_loadu_ps(params.absmax + i), offset);
        largest8 = _mm256_max_ps(largest8, _mm256_andnot_ps(sign, difference));
    }
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, largest8);
    float largest = *std::max_element(lanes, lanes + 8);
    for (; i < end; ++i) largest = std::max(largest, std::fabs(params.absmax[i] - params.offset));
    params.nested_absmax[nested] = largest;
    const float scale = 1.0f / largest;

    i = begin;
    // An infinite scale makes NaN of zeros: such a block takes the scalar loop.
    if (is_finite(scale)) {
        const __m256 scales = _mm256_set1_ps(scale);
        for (; i + 8 <= end; i += 8) {
            const __m256 difference = _mm256_sub_ps(_mm256_loadu_ps(params.absmax + i), offset);
            const __m256i codes = encode8(map, _mm256_mul_ps(difference, scales));
            const __m128i words =
                _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
            _mm_storel_epi64(reinterpret_cast<__m128i*>(params.codes + i), _mm_packus_epi16(words, words));
        }
    }
    for (; i < end; ++i) {
        params.codes[i] =
            static_cast<uint8_t>(encode_dynamic(map, (params.absmax[i] - params.offset) * scale));
    }
}

}  // namespace

void quantize_absmax(const QuantizeAbsmaxParams& params, int64_t nested_begin, int64_t nested_end) {
    for (int64_t nested = nested_begin; nested < nested_end; ++nested) quantize_nested_block(params, nested);
}

[[gnu::target("avx2")]] void dequantize_absmax(const AbsmaxView& absmax, int64_t block_begin,
                                               int64_t block_end, float* out) {
    const float* map = kSignedDynamicMap.value;
    const __m256 offset = _mm256_set1_ps(absmax.offset);
    int64_t block = block_begin;
    while (block < block_end) {
        const float nested_absmax = absmax.nested_absmax[block / kNestedBlocksize];
        const int64_t end = std::min((block / kNestedBlocksize + 1) * kNestedBlocksize, block_end);
        const __m256 scale = _mm256_set1_ps(nested_absmax);
        for (; block + 8 <= end; block += 8, out += 8) {
            const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(absmax.codes + block));
            const __m256 values = _mm256_i32gather_ps(map, _mm256_cvtepu8_epi32(codes), 4);
            _mm256_storeu_ps(out, _mm256_add_ps(_mm256_mul_ps(values, scale), offset));
        }
        for (; block < end; ++block)
            *out++ = decode_absmax(map, absmax.codes[block], nested_absmax, absmax.offset);
    }
}

}  // namespace qlora::kernels::cpu::avx2
#endif
