#if defined(__x86_64__)
#include <immintrin.h>

#include "nf4_table.h"
#include "paths.h"
#include "qlora/kernels/float16.h"

namespace qlora::kernels::cpu::avx2 {

namespace {

/// The 16 products code * absmax of a block: each value of the block is one of them, so nothing is left but
/// look-ups.
struct Products {
    __m256 low, high;  // codes 0 .. 7 and 8 .. 15
};

[[gnu::target("avx2,f16c"), gnu::always_inline]] inline Products products_of(float absmax) {
    const __m256 scale = _mm256_set1_ps(absmax);
    return {_mm256_mul_ps(_mm256_load_ps(kNf4Table.value), scale),
            _mm256_mul_ps(_mm256_load_ps(kNf4Table.value + 8), scale)};
}

/// 16 codes as bytes, in the order of the values, from 8 packed bytes.
[[gnu::target("avx2,f16c"), gnu::always_inline]] inline __m128i unpack16(const uint8_t* packed) {
    const __m128i pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(packed));
    const __m128i nibble = _mm_set1_epi8(0x0f);
    const __m128i first = _mm_and_si128(_mm_srli_epi16(pairs, 4), nibble);
    return _mm_unpacklo_epi8(first, _mm_and_si128(pairs, nibble));
}

[[gnu::target("avx2,f16c"), gnu::always_inline]] inline __m256 look_up8(const Products& products,
                                                                        __m128i codes) {
    const __m256i index = _mm256_cvtepu8_epi32(codes);
    const __m256 low = _mm256_permutevar8x32_ps(products.low, index);
    const __m256 high = _mm256_permutevar8x32_ps(products.high, index);
    // Bit 3 of the code, moved to the sign, selects the half.
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}

[[gnu::target("avx2,f16c"), gnu::always_inline]] inline void dequantize_f32(const uint8_t* packed,
                                                                            int64_t count, float absmax,
                                                                            char* out) {
    const Products products = products_of(absmax);
    for (int64_t i = 0; i < count; i += 16) {
        const __m128i codes = unpack16(packed + i / 2);
        float* to = reinterpret_cast<float*>(out + 4 * i);
        _mm256_storeu_ps(to, look_up8(products, codes));
        _mm256_storeu_ps(to + 8, look_up8(products, _mm_srli_si128(codes, 8)));
    }
}

/// Sixteen 16-bit table entries, split into their low and high bytes for byte shuffles.
struct ByteTables {
    __m128i low, high;
};

[[gnu::target("avx2,f16c"), gnu::always_inline]] inline ByteTables split_bytes(__m128i codes0to7,
                                                                               __m128i codes8to15) {
    const __m128i low_mask = _mm_set1_epi16(0x00ff);
    return {_mm_packus_epi16(_mm_and_si128(codes0to7, low_mask), _mm_and_si128(codes8to15, low_mask)),
            _mm_packus_epi16(_mm_srli_epi16(codes0to7, 8), _mm_srli_epi16(codes8to15, 8))};
}

/// Round to nearest even; `values` holds no NaN.
[[gnu::target("avx2,f16c"), gnu::always_inline]] inline __m128i round_to_bf16(__m256 values) {
    const __m256i bits = _mm256_castps_si256(values);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}

[[gnu::target("avx2,f16c"), gnu::always_inline]] inline __m128i round_to_f16(__m256 values) {
    return _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

[[gnu::target("avx2,f16c"), gnu::always_inline]] inline void dequantize_16bit(const uint8_t* packed,
                                                                              int64_t count, float absmax,
                                                                              char* out, FloatType type) {
    const Products products = products_of(absmax);
    const ByteTables tables = type == FloatType::kF16
                                  ? split_bytes(round_to_f16(products.low), round_to_f16(products.high))
                                  : split_bytes(round_to_bf16(products.low), round_to_bf16(products.high));
    for (int64_t i = 0; i < count; i += 16) {
        const __m128i codes = unpack16(packed + i / 2);
        const __m128i low = _mm_shuffle_epi8(tables.low, codes);
        const __m128i high = _mm_shuffle_epi8(tables.high, codes);
        __m128i* to = reinterpret_cast<__m128i*>(out + 2 * i);
        _mm_storeu_si128(to, _mm_unpacklo_epi8(low, high));
        _mm_storeu_si128(to + 1, _mm_unpackhi_epi8(low, high));
    }
}

}  // namespace

[[gnu::target("avx2,f16c")]] int64_t dequantize_blocks_nf4(const Nf4View& view, int64_t begin, int64_t end,
                                                           void* out, FloatType type) {
    const int64_t size = view.blocksize;
    char* to = static_cast<char*>(out);
    for (int64_t block = begin; block < end; ++block, to += size * float_bytes(type)) {
        const float absmax = absmax_of(view, block);
        if (!is_finite(absmax)) return block;
        const uint8_t* packed = view.packed + block * size / 2;
        if (type == FloatType::kF32) {
            dequantize_f32(packed, size, absmax, to);
        } else {
            dequantize_16bit(packed, size, absmax, to, type);
        }
    }
    return end;
}

}  // namespace qlora::kernels::cpu::avx2
#endif
