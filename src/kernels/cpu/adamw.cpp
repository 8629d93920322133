#include "qlora/kernels/adamw_math.h"

#include <stdexcept>

#include "paths.h"
#include "qlora/kernels/fixed_order_sum.h"

namespace qlora::kernels::cpu {

void adamw_step(float* p, const float* g, float* m, float* v, int64_t n, const AdamwSettings& settings) {
    if (n < 0 || settings.step < 1) throw std::invalid_argument("adamw_step: n and step count from 0 and 1");
    const AdamwFactors factors = adamw_factors(settings);
    if (runs_avx2()) return avx2::adamw_step(p, g, m, v, n, factors);
    for (int64_t i = 0; i < n; ++i) adamw_update(factors, g[i], p[i], m[i], v[i]);
}

double sum_of_squares(const float* values, int64_t n) {
    return fixed_order_sum(n, [values](int64_t i) {
        const double value = values[i];
        return value * value;
    });
}

}  // namespace qlora::kernels::cpu
