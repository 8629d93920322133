#if defined(__x86_64__)
#include <immintrin.h>

#include "nf4_table.h"
#include "paths.h"

namespace qlora::kernels::cpu::avx512 {

/// All 16 products of a block fit one register, so that a value is one look-up.
[[gnu::target("avx512f,avx2,f16c")]] int64_t dequantize_blocks_nf4(const Nf4View& view, int64_t begin,
                                                                   int64_t end, void* out, FloatType type) {
    if (type != FloatType::kF32) return avx2::dequantize_blocks_nf4(view, begin, end, out, type);
    const __m512 codebook = _mm512_load_ps(kNf4Table.value);
    const __m128i nibble = _mm_set1_epi8(0x0f);
    constexpr __mmask16 kAll =
        0xffff;  // without a mask GCC 12 warns of a value that is never read (PR 105593)
    const int64_t size = view.blocksize;
    float* to = static_cast<float*>(out);
    for (int64_t block = begin; block < end; ++block, to += size) {
        const float absmax = absmax_of(view, block);
        if (!is_finite(absmax)) return block;
        const __m512 products = _mm512_mul_ps(codebook, _mm512_set1_ps(absmax));
        const uint8_t* packed = view.packed + block * size / 2;
        for (int64_t i = 0; i < size; i += 16) {
            const __m128i pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(packed + i / 2));
            const __m128i first = _mm_and_si128(_mm_srli_epi16(pairs, 4), nibble);
            const __m128i codes = _mm_unpacklo_epi8(first, _mm_and_si128(pairs, nibble));
            _mm512_storeu_ps(
                to + i, _mm512_maskz_permutexvar_ps(kAll, _mm512_maskz_cvtepu8_epi32(kAll, codes), products));
        }
    }
    return end;
}

}  // namespace qlora::kernels::cpu::avx512
#endif
