#include "qlora/kernels/adamw_8bit_math.h"

#include <algorithm>
#include <stdexcept>

#include "paths.h"
#include "qlora/kernels/block_layout.h"

namespace qlora::kernels::cpu {

namespace {

constexpr const float* kMap1 = kSignedDynamicMap.value;
constexpr const float* kMap2 = kUnsignedDynamicMap.value;

void step_block(const Adamw8bitParams& params, int64_t block, const Adamw8bitFactors& factors) {
    const int64_t begin = block * kAdamwBlocksize;
    const int64_t count = std::min<int64_t>(kAdamwBlocksize, params.n - begin);
    float* p = params.p + begin;
    const float* g = params.g + begin;
    uint8_t* m_codes = params.m_codes + begin;
    uint8_t* v_codes = params.v_codes + begin;
    float m[kAdamwBlocksize], v[kAdamwBlocksize];
    float largest_m = 0.0f, largest_v = 0.0f;
    for (int64_t i = 0; i < count; ++i) {
        m[i] = kMap1[m_codes[i]] * params.m_absmax[block];
        v[i] = kMap2[v_codes[i]] * params.v_absmax[block];
        adamw_8bit_update(factors, g[i], p[i], m[i], v[i]);
        largest_m = std::max(largest_m, std::fabs(m[i]));
        largest_v = std::max(largest_v, v[i]);
    }
    params.m_absmax[block] = largest_m;
    params.v_absmax[block] = largest_v;
    for (int64_t i = 0; i < count; ++i) {
        m_codes[i] = static_cast<uint8_t>(encode_first_moment(kMap1, m[i], largest_m));
        v_codes[i] = static_cast<uint8_t>(encode_second_moment(kMap2, v[i], largest_v));
    }
}

}  // namespace

void adamw_8bit_step(const Adamw8bitParams& params, int64_t block_begin, int64_t block_end,
                     const AdamwSettings& settings) {
    if (settings.step < 1) throw std::invalid_argument("adamw_8bit_step: steps count from 1");
    if (params.n < 0 || block_begin < 0 || block_end < block_begin ||
        block_end > block_count(params.n, kAdamwBlocksize)) {
        throw std::invalid_argument("adamw_8bit_step: block range outside the tensor");
    }
    const Adamw8bitFactors factors = adamw_8bit_factors(settings);
    if (runs_avx2()) return avx2::adamw_8bit_step(params, block_begin, block_end, factors);
    for (int64_t block = block_begin; block < block_end; ++block) step_block(params, block, factors);
}

void adamw_8bit_step(const Adamw8bitParams& params, const AdamwSettings& settings) {
    adamw_8bit_step(params, 0, block_count(std::max<int64_t>(params.n, 0), kAdamwBlocksize), settings);
}

}  // namespace qlora::kernels::cpu
