#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "paths.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/dynamic_code.h"
#include "qlora/kernels/fixed_order_sum.h"

namespace qlora::kernels::cpu {

namespace {

void quantize_nested_blocks(const QuantizeAbsmaxParams& params, int64_t nested_begin, int64_t nested_end) {
    for (int64_t nested = nested_begin; nested < nested_end; ++nested) {
        const int64_t begin = nested * kNestedBlocksize;
        const int64_t end = std::min<int64_t>(begin + kNestedBlocksize, params.blocks);
        float largest = 0.0f;
        for (int64_t i = begin; i < end; ++i)
            largest = std::max(largest, std::fabs(params.absmax[i] - params.offset));
        params.nested_absmax[nested] = largest;
        const float scale = 1.0f / largest;
        for (int64_t i = begin; i < end; ++i) {
            const float x = (params.absmax[i] - params.offset) * scale;
            params.codes[i] = static_cast<uint8_t>(encode_dynamic(kSignedDynamicMap.value, x));
        }
    }
}

}  // namespace

float absmax_offset(const float* absmax, int64_t blocks) {
    if (blocks == 0) return 0.0f;
    const double sum =
        fixed_order_sum(blocks, [absmax](int64_t i) { return static_cast<double>(absmax[i]); });
    return static_cast<float>(sum / static_cast<double>(blocks));
}

void quantize_absmax(const QuantizeAbsmaxParams& params, int64_t nested_begin, int64_t nested_end) {
    if (params.blocks < 0 || nested_begin < 0 || nested_end < nested_begin ||
        nested_end > nested_block_count(params.blocks)) {
        throw std::invalid_argument("quantize_absmax: range outside the scales");
    }
    if (runs_avx2()) return avx2::quantize_absmax(params, nested_begin, nested_end);
    quantize_nested_blocks(params, nested_begin, nested_end);
}

float quantize_absmax(const float* absmax, int64_t blocks, uint8_t* codes, float* nested_absmax) {
    const QuantizeAbsmaxParams params{absmax, blocks, absmax_offset(absmax, blocks), codes, nested_absmax};
    quantize_absmax(params, 0, nested_block_count(blocks));
    return params.offset;
}

void dequantize_absmax(const AbsmaxView& absmax, int64_t block_begin, int64_t block_end, float* out) {
    if (block_begin < 0 || block_end < block_begin) {
        throw std::invalid_argument("dequantize_absmax: range outside the scales");
    }
    if (absmax.values != nullptr) {
        std::copy(absmax.values + block_begin, absmax.values + block_end, out);
        return;
    }
    if (runs_avx2()) return avx2::dequantize_absmax(absmax, block_begin, block_end, out);
    for (int64_t block = block_begin; block < block_end; ++block) {
        *out++ = decode_absmax(kSignedDynamicMap.value, absmax.codes[block],
                               absmax.nested_absmax[block / kNestedBlocksize], absmax.offset);
    }
}

}  // namespace qlora::kernels::cpu
