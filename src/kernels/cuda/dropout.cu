// Dropout by random numbers that are a function of an element's index: one thread a group of 16 elements,
// four to a draw of four words; the last group, and all of them where a buffer is not aligned, go value by
// value.
#include "elements.cuh"
#include "qlora/kernels/cuda_layer.h"
#include "qlora/kernels/philox.h"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

constexpr int kThreads = 256;
constexpr int kQuad = 4;

template <class Elements>
__global__ void __launch_bounds__(kThreads) drop_groups(DropoutParams params, float scale, bool vectors) {
    const int64_t begin =
        (blockIdx.x * static_cast<int64_t>(kThreads) + static_cast<int64_t>(threadIdx.x)) * kGroup;
    const bool whole = vectors && begin + kGroup <= params.n;
    const bool together = __all_sync(kAllLanes, whole) != 0;
    float values[kGroup];
    if (whole) {
        Elements::load_group(params.x, begin, values);
    } else {
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
            values[i] = begin + i < params.n ? Elements::load(params.x, begin + i) : 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < kGroup; i += kQuad) {
        const PhiloxBlock words =
            dropout_words(params.seed, params.step, params.site, static_cast<uint64_t>(begin + i) / kQuad);
#pragma unroll
        for (int k = 0; k < kQuad; ++k) {
            values[i + k] = dropout_keeps(words.word[k], params.p) ? values[i + k] * scale : 0.0f;
        }
    }
    if (whole) {
        store_group<Elements>(params.y, begin, values, together);
        return;
    }
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
        if (begin + i < params.n) Elements::store(params.y, begin + i, values[i]);
    }
}

}  // namespace

void dropout(const DropoutParams& params, Stream stream) {
    if (params.n < 0) throw std::invalid_argument("dropout: a negative size");
    if (!(params.p >= 0.0f && params.p <= 1.0f)) throw std::invalid_argument("dropout: p outside [0, 1]");
    const std::size_t size = static_cast<std::size_t>(float_bytes(params.type));
    if (!is_aligned(params.x, size) || !is_aligned(params.y, size)) {
        throw std::invalid_argument("dropout: x or y that is not aligned to its element");
    }
    if (params.n == 0) return;
    const float scale = 1.0f / (1.0f - params.p);
    const bool vectors = is_aligned(params.x, 16) && is_aligned(params.y, 16);
    const LaunchConfig config{dim3(grid_size(params.n, kThreads * kGroup)), dim3(kThreads)};
    with_elements(params.type, [&](auto elements) {
        launch<drop_groups<decltype(elements)>>(config, stream, params, scale, vectors);
    });
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
