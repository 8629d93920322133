#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#include "dynamic_code_avx2.h"
#include "paths.h"
#include "qlora/kernels/adamw_8bit_math.h"

namespace qlora::kernels::cpu::avx2 {

namespace {

constexpr const float* kMap1 = kSignedDynamicMap.value;
constexpr const float* kMap2 = kUnsignedDynamicMap.value;

/// One block, with its moments in fp32 while it is worked on.
struct Block {
    float* p;
    const float* g;
    uint8_t* m_codes;
    uint8_t* v_codes;
    int64_t count;
    alignas(32) float m[kAdamwBlocksize], v[kAdamwBlocksize];
};

[[gnu::target("avx2")]] float largest_lane(__m256 lanes8) {
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, lanes8);
    return *std::max_element(lanes, lanes + 8);
}

/// adamw_8bit_update on the whole block: the same operations, so the same bits. The scales, read first,
/// become the new ones.
[[gnu::target("avx2,fma")]] void update(Block& block, const Adamw8bitFactors& f, float& m_absmax,
                                        float& v_absmax) {
    const __m256 m_scale = _mm256_set1_ps(m_absmax);
    const __m256 v_scale = _mm256_set1_ps(v_absmax);
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 largest_m8 = _mm256_setzero_ps();
    __m256 largest_v8 = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + 8 <= block.count; i += 8) {
        const __m256 gradient = _mm256_mul_ps(_mm256_loadu_ps(block.g + i), _mm256_set1_ps(f.grad_scale));
        const __m256 old_m = _mm256_mul_ps(decode_dynamic8(kMap1, block.m_codes + i), m_scale);
        const __m256 m = _mm256_fmadd_ps(_mm256_set1_ps(f.one_minus_beta1), gradient,
                                         _mm256_mul_ps(old_m, _mm256_set1_ps(f.beta1)));
        const __m256 old_v = _mm256_mul_ps(decode_dynamic8(kMap2, block.v_codes + i), v_scale);
        const __m256 weighted = _mm256_mul_ps(_mm256_set1_ps(f.one_minus_beta2), gradient);
        const __m256 v = _mm256_fmadd_ps(weighted, gradient, _mm256_mul_ps(old_v, _mm256_set1_ps(f.beta2)));
        const __m256 denominator = _mm256_add_ps(_mm256_sqrt_ps(v), _mm256_set1_ps(f.eps));
        const __m256 moved = _mm256_fmadd_ps(_mm256_set1_ps(f.minus_step_size), _mm256_div_ps(m, denominator),
                                             _mm256_loadu_ps(block.p + i));
        _mm256_storeu_ps(block.p + i, _mm256_mul_ps(moved, _mm256_set1_ps(f.decay)));
        _mm256_store_ps(block.m + i, m);
        _mm256_store_ps(block.v + i, v);
        // The second operand wins over a NaN.
        largest_m8 = _mm256_max_ps(_mm256_andnot_ps(sign, m), largest_m8);
        largest_v8 = _mm256_max_ps(v, largest_v8);
    }
    float largest_m = largest_lane(largest_m8), largest_v = largest_lane(largest_v8);
    for (; i < block.count; ++i) {
        block.m[i] = kMap1[block.m_codes[i]] * m_absmax;
        block.v[i] = kMap2[block.v_codes[i]] * v_absmax;
        adamw_8bit_update(f, block.g[i], block.p[i], block.m[i], block.v[i]);
        largest_m = std::max(largest_m, std::fabs(block.m[i]));
        largest_v = std::max(largest_v, block.v[i]);
    }
    m_absmax = largest_m;
    v_absmax = largest_v;
}

/// Whether no value of a block divided by its largest is NaN.
bool divides(float absmax) {
    return absmax > 0.0f && is_finite(absmax);
}

[[gnu::target("avx2")]] void encode_m(const Block& block, float absmax) {
    int64_t i = 0;
    if (divides(absmax)) {
        const __m256i zero_code = _mm256_set1_epi32(kSignedZeroCode);
        for (; i + 8 <= block.count; i += 8) {
            const __m256 m = _mm256_load_ps(block.m + i);
            const __m256i codes = encode_dynamic8(kMap1, _mm256_div_ps(m, _mm256_set1_ps(absmax)));
            // -1 where a negative value would become 0.
            const __m256 is_negative = _mm256_cmp_ps(m, _mm256_setzero_ps(), _CMP_LT_OQ);
            const __m256i below =
                _mm256_and_si256(_mm256_cmpeq_epi32(codes, zero_code), _mm256_castps_si256(is_negative));
            store_codes8(block.m_codes + i, _mm256_add_epi32(codes, below));
        }
    }
    for (; i < block.count; ++i)
        block.m_codes[i] = static_cast<uint8_t>(encode_first_moment(kMap1, block.m[i], absmax));
}

[[gnu::target("avx2")]] void encode_v(const Block& block, float absmax) {
    int64_t i = 0;
    if (divides(absmax)) {
        for (; i + 8 <= block.count; i += 8) {
            const __m256 x = _mm256_div_ps(_mm256_load_ps(block.v + i), _mm256_set1_ps(absmax));
            store_codes8(block.v_codes + i, encode_dynamic8(kMap2, x));
        }
    }
    for (; i < block.count; ++i)
        block.v_codes[i] = static_cast<uint8_t>(encode_second_moment(kMap2, block.v[i], absmax));
}

}  // namespace

void adamw_8bit_step(const Adamw8bitParams& params, int64_t block_begin, int64_t block_end,
                     const Adamw8bitFactors& factors) {
    for (int64_t number = block_begin; number < block_end; ++number) {
        const int64_t begin = number * kAdamwBlocksize;
        Block block;
        block.p = params.p + begin;
        block.g = params.g + begin;
        block.m_codes = params.m_codes + begin;
        block.v_codes = params.v_codes + begin;
        block.count = std::min<int64_t>(kAdamwBlocksize, params.n - begin);
        update(block, factors, params.m_absmax[number], params.v_absmax[number]);
        encode_m(block, params.m_absmax[number]);
        encode_v(block, params.v_absmax[number]);
    }
}

}  // namespace qlora::kernels::cpu::avx2
#endif
