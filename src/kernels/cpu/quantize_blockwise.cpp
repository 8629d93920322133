#include <algorithm>
#include <stdexcept>

#include "load_float.h"
#include "paths.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/codebook.h"

namespace qlora::kernels::cpu {

namespace {

template <class Elements>
int64_t first_non_finite(const void* input, int64_t begin, int64_t end) {
    while (begin < end && is_finite(Elements::load(input, begin))) ++begin;
    return begin;
}

template <class Elements>
int64_t quantize_blocks(const QuantizeNf4Params& params, int64_t block_begin, int64_t block_end) {
    for (int64_t block = block_begin; block < block_end; ++block) {
        const int64_t begin = block * params.blocksize;
        const int64_t end = std::min<int64_t>(begin + params.blocksize, params.n);
        uint32_t largest = 0;
        for (int64_t i = begin; i < end; ++i) {
            largest = std::max(largest, float_magnitude_bits(Elements::load(params.input, i)));
        }
        if (largest >= kFloatInfinityBits) return first_non_finite<Elements>(params.input, begin, end);
        const float absmax = float_from_bits(largest);
        params.absmax[block] = absmax;
        const float scale = 1.0f / absmax;
        const auto code = [&](int64_t i) { return encode_nf4(Elements::load(params.input, i) * scale); };
        int64_t i = begin;
        for (; i + 1 < end; i += 2) params.packed[i / 2] = pack_pair(code(i), code(i + 1));
        if (i < end) params.packed[i / 2] = pack_pair(code(i), kNf4ZeroCode);
    }
    return -1;
}

void check(const QuantizeNf4Params& params, int64_t block_begin, int64_t block_end) {
    if (!is_valid_blocksize(params.blocksize))
        throw std::invalid_argument("quantize_blockwise_nf4: blocksize");
    if (params.n < 0 || block_begin < 0 || block_end < block_begin ||
        block_end > block_count(params.n, params.blocksize)) {
        throw std::invalid_argument("quantize_blockwise_nf4: block range outside the tensor");
    }
}

}  // namespace

int64_t quantize_blockwise_nf4(const QuantizeNf4Params& params, int64_t block_begin, int64_t block_end) {
    check(params, block_begin, block_end);
    if (runs_avx2()) return avx2::quantize_blockwise_nf4(params, block_begin, block_end);
    switch (params.input_type) {
        case FloatType::kF32:
            return quantize_blocks<F32Elements>(params, block_begin, block_end);
        case FloatType::kF16:
            return quantize_blocks<F16Elements>(params, block_begin, block_end);
        case FloatType::kBF16:
            return quantize_blocks<BF16Elements>(params, block_begin, block_end);
    }
    throw std::invalid_argument("quantize_blockwise_nf4: input type");
}

int64_t quantize_blockwise_nf4(const QuantizeNf4Params& params) {
    check(params, 0, 0);
    return quantize_blockwise_nf4(params, 0, block_count(params.n, params.blocksize));
}

}  // namespace qlora::kernels::cpu
