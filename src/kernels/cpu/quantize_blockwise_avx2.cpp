#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#include "load_float.h"
#include "paths.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/codebook.h"

namespace qlora::kernels::cpu::avx2 {

namespace {

struct F32Vectors : F32Elements {
    [[gnu::target("avx2,f16c"), gnu::always_inline]] static inline __m256 load8(const void* base,
                                                                                int64_t index) {
        return _mm256_loadu_ps(reinterpret_cast<const float*>(static_cast<const char*>(base) + 4 * index));
    }
};

struct F16Vectors : F16Elements {
    [[gnu::target("avx2,f16c"), gnu::always_inline]] static inline __m256 load8(const void* base,
                                                                                int64_t index) {
        const char* place = static_cast<const char*>(base) + 2 * index;
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(place)));
    }
};

struct BF16Vectors : BF16Elements {
    [[gnu::target("avx2,f16c"), gnu::always_inline]] static inline __m256 load8(const void* base,
                                                                                int64_t index) {
        const char* place = static_cast<const char*>(base) + 2 * index;
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(place));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
};

/// The thresholds in the order a four-step search reads them, each step's in one register.
struct SearchTables {
    __m256 first, second, third, fourth;
};

[[gnu::target("avx2,f16c")]] SearchTables search_tables() {
    constexpr Nf4Thresholds kThresholds = nf4_thresholds();
    alignas(32) float second[8] = {kThresholds.at[3], kThresholds.at[11]};
    alignas(32) float third[8] = {kThresholds.at[1], kThresholds.at[5], kThresholds.at[9],
                                  kThresholds.at[13]};
    alignas(32) float fourth[8];
    for (int i = 0; i < 8; ++i) fourth[i] = kThresholds.at[2 * i];
    return {_mm256_set1_ps(kThresholds.at[7]), _mm256_load_ps(second), _mm256_load_ps(third),
            _mm256_load_ps(fourth)};
}

/// Eight codes as int32. `x` holds no NaN.
[[gnu::target("avx2,f16c"), gnu::always_inline]] inline __m256i encode8(const SearchTables& tables,
                                                                        __m256 x) {
    // A true comparison is -1, so index - mask is index + 1.
    const auto above = [&](__m256 thresholds) __attribute__((target("avx2,f16c"), always_inline)) {
        return _mm256_castps_si256(_mm256_cmp_ps(x, thresholds, _CMP_GT_OQ));
    };
    __m256i index = _mm256_sub_epi32(_mm256_setzero_si256(), above(tables.first));
    index = _mm256_sub_epi32(_mm256_add_epi32(index, index),
                             above(_mm256_permutevar8x32_ps(tables.second, index)));
    index = _mm256_sub_epi32(_mm256_add_epi32(index, index),
                             above(_mm256_permutevar8x32_ps(tables.third, index)));
    return _mm256_sub_epi32(_mm256_add_epi32(index, index),
                            above(_mm256_permutevar8x32_ps(tables.fourth, index)));
}

/// 32 codes in four registers of int32 become 16 bytes.
[[gnu::target("avx2,f16c"), gnu::always_inline]] inline __m128i pack32(__m256i a, __m256i b, __m256i c,
                                                                       __m256i d) {
    const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    // The packs work within 128-bit lanes: dwords now hold a0 b0 c0 d0 a4 b4 c4 d4.
    const __m256i ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    const __m256i pairs =
        _mm256_maddubs_epi16(ordered, _mm256_set1_epi16(0x0110));  // 16 * first + 1 * second
    const __m256i packed = _mm256_packus_epi16(pairs, pairs);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}

template <class Vectors>
[[gnu::target("avx2,f16c")]] uint32_t largest_magnitude_bits(const void* input, int64_t begin, int64_t end) {
    const __m256i magnitude = _mm256_set1_epi32(static_cast<int>(~kFloatSignBit));
    __m256i largest = _mm256_setzero_si256();
    int64_t i = begin;
    for (; i + 8 <= end; i += 8) {
        const __m256i bits = _mm256_castps_si256(Vectors::load8(input, i));
        largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, magnitude));
    }
    alignas(32) uint32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
    uint32_t result = *std::max_element(lanes, lanes + 8);
    for (; i < end; ++i) result = std::max(result, float_magnitude_bits(Vectors::load(input, i)));
    return result;
}

template <class Vectors>
[[gnu::target("avx2,f16c")]] int64_t quantize_blocks(const QuantizeNf4Params& params, int64_t block_begin,
                                                     int64_t block_end) {
    const SearchTables tables = search_tables();
    for (int64_t block = block_begin; block < block_end; ++block) {
        const int64_t begin = block * params.blocksize;
        const int64_t end = std::min<int64_t>(begin + params.blocksize, params.n);
        const uint32_t largest = largest_magnitude_bits<Vectors>(params.input, begin, end);
        int64_t i = begin;
        if (largest >= kFloatInfinityBits) {
            while (is_finite(Vectors::load(params.input, i))) ++i;
            return i;
        }
        const float absmax = float_from_bits(largest);
        params.absmax[block] = absmax;
        const float scale = 1.0f / absmax;
        // An infinite scale makes NaN of zeros, which encode8 does not know: such a block takes the scalar
        // loop.
        if (is_finite(scale)) {
            const __m256 scales = _mm256_set1_ps(scale);
            const auto codes = [&](int64_t at) __attribute__((target("avx2,f16c"), always_inline)) {
                return encode8(tables, _mm256_mul_ps(Vectors::load8(params.input, at), scales));
            };
            for (; i + 32 <= end; i += 32) {
                _mm_storeu_si128(reinterpret_cast<__m128i*>(params.packed + i / 2),
                                 pack32(codes(i), codes(i + 8), codes(i + 16), codes(i + 24)));
            }
        }
        const auto code = [&](int64_t at) { return encode_nf4(Vectors::load(params.input, at) * scale); };
        for (; i + 1 < end; i += 2) params.packed[i / 2] = pack_pair(code(i), code(i + 1));
        if (i < end) params.packed[i / 2] = pack_pair(code(i), kNf4ZeroCode);
    }
    return -1;
}

}  // namespace

int64_t quantize_blockwise_nf4(const QuantizeNf4Params& params, int64_t block_begin, int64_t block_end) {
    switch (params.input_type) {
        case FloatType::kF32:
            return quantize_blocks<F32Vectors>(params, block_begin, block_end);
        case FloatType::kF16:
            return quantize_blocks<F16Vectors>(params, block_begin, block_end);
        default:
            return quantize_blocks<BF16Vectors>(params, block_begin, block_end);
    }
}

}  // namespace qlora::kernels::cpu::avx2
#endif
