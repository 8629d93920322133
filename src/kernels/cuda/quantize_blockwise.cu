// NF4 codes and block scales of a tensor. One warp a block of values, whatever the blocksize: lane l takes
// the pairs l, l + 32, .. of the block. Twice as many bytes are read as needed (the second time from the
// cache), which the copy of the weights to the card hides many times over.
#include "elements.cuh"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/codebook.h"
#include "warp.cuh"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

constexpr int kThreads = 256;

/// Lowers *first_non_finite to the first such value of [begin, end); there is one.
template <class Elements>
__device__ void report_non_finite(const void* input, int64_t begin, int64_t end, int lane,
                                  int64_t* first_non_finite) {
    int64_t first = begin + lane;
    while (first < end && is_finite(Elements::load(input, first))) first += kWarpSize;
    first = warp_min(first);
    // -1 is the largest value when unsigned.
    if (lane == 0) {
        atomicMin(reinterpret_cast<unsigned long long*>(first_non_finite),
                  static_cast<unsigned long long>(first));
    }
}

template <class Elements>
__global__ void __launch_bounds__(kThreads)
    quantize_blocks(QuantizeNf4Params params, int64_t* first_non_finite) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int64_t block = blockIdx.x * static_cast<int64_t>(kThreads / kWarpSize) + threadIdx.x / kWarpSize;
    const int64_t begin = block * params.blocksize;
    if (begin >= params.n) return;
    const int64_t end = begin + params.blocksize < params.n ? begin + params.blocksize : params.n;

    uint32_t largest = 0;
    for (int64_t i = begin + lane; i < end; i += kWarpSize) {
        const uint32_t magnitude = float_magnitude_bits(Elements::load(params.input, i));
        largest = magnitude > largest ? magnitude : largest;
    }
    largest = warp_max(largest);
    if (largest >= kFloatInfinityBits) {
        report_non_finite<Elements>(params.input, begin, end, lane, first_non_finite);
        return;
    }
    const float absmax = float_from_bits(largest);
    if (lane == 0) params.absmax[block] = absmax;

    const float scale = 1.0f / absmax;
    for (int64_t i = begin + 2 * lane; i < end; i += 2 * kWarpSize) {
        const int first = encode_nf4(Elements::load(params.input, i) * scale);
        const int second =
            i + 1 < end ? encode_nf4(Elements::load(params.input, i + 1) * scale) : kNf4ZeroCode;
        params.packed[i / 2] = pack_pair(first, second);
    }
}

}  // namespace

void quantize_blockwise_nf4(const QuantizeNf4Params& params, int64_t* first_non_finite, Stream stream) {
    if (!is_valid_blocksize(params.blocksize))
        throw std::invalid_argument("quantize_blockwise_nf4: blocksize");
    if (params.n < 0) throw std::invalid_argument("quantize_blockwise_nf4: a negative size");
    if (!is_aligned(params.input, static_cast<std::size_t>(float_bytes(params.input_type)))) {
        throw std::invalid_argument("quantize_blockwise_nf4: input that is not aligned to its element");
    }
    if (params.n == 0) return;
    const int64_t blocks = block_count(params.n, params.blocksize);
    const LaunchConfig config{dim3(grid_size(blocks, kThreads / kWarpSize)), dim3(kThreads)};
    with_elements(params.input_type, [&](auto elements) {
        launch<quantize_blocks<decltype(elements)>>(config, stream, params, first_non_finite);
    });
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
