#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "dynamic_code_avx2.h"
#include "paths.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/dynamic_code.h"

namespace qlora::kernels::cpu::avx2 {

namespace {

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
            store_codes8(params.codes + i, encode_dynamic8(map, _mm256_mul_ps(difference, scales)));
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
            const __m256 values = decode_dynamic8(map, absmax.codes + block);
            _mm256_storeu_ps(out, _mm256_add_ps(_mm256_mul_ps(values, scale), offset));
        }
        for (; block < end; ++block)
            *out++ = decode_absmax(map, absmax.codes[block], nested_absmax, absmax.offset);
    }
}

}  // namespace qlora::kernels::cpu::avx2
#endif
