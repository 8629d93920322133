#if defined(__x86_64__)
#include <immintrin.h>

#include "paths.h"
#include "qlora/kernels/adamw_math.h"

namespace qlora::kernels::cpu::avx2 {

/// adamw_update on eight parameters at once: the same operations, so the same bits.
[[gnu::target("avx2,fma")]] void adamw_step(float* p, const float* g, float* m, float* v, int64_t n,
                                            const AdamwFactors& f) {
    const bool from_start = f.one_minus_beta1 < 0.5f;
    const __m256 weight = _mm256_set1_ps(from_start ? f.one_minus_beta1 : f.one_minus_beta1 - 1.0f);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 gradient = _mm256_mul_ps(_mm256_loadu_ps(g + i), _mm256_set1_ps(f.grad_scale));
        const __m256 decayed = _mm256_mul_ps(_mm256_loadu_ps(p + i), _mm256_set1_ps(f.decay));
        const __m256 old_m = _mm256_loadu_ps(m + i);
        const __m256 new_m =
            _mm256_fmadd_ps(weight, _mm256_sub_ps(gradient, old_m), from_start ? old_m : gradient);
        const __m256 faded_v = _mm256_mul_ps(_mm256_loadu_ps(v + i), _mm256_set1_ps(f.beta2));
        const __m256 weighted = _mm256_mul_ps(_mm256_set1_ps(f.one_minus_beta2), gradient);
        const __m256 new_v = _mm256_fmadd_ps(weighted, gradient, faded_v);
        const __m256 root = _mm256_div_ps(_mm256_sqrt_ps(new_v), _mm256_set1_ps(f.root_correction2));
        const __m256 denominator = _mm256_add_ps(root, _mm256_set1_ps(f.eps));
        const __m256 update =
            _mm256_div_ps(_mm256_mul_ps(_mm256_set1_ps(f.minus_step_size), new_m), denominator);
        _mm256_storeu_ps(m + i, new_m);
        _mm256_storeu_ps(v + i, new_v);
        _mm256_storeu_ps(p + i, _mm256_add_ps(decayed, update));
    }
    for (; i < n; ++i) adamw_update(f, g[i], p[i], m[i], v[i]);
}

}  // namespace qlora::kernels::cpu::avx2
#endif
