// 8-bit codes of block scales (double quantization): the mean of all scales, then one CUDA block of 256
// threads a nested block of 256 scales. Every CUDA block sums all the scales for itself: the sums run side by
// side, so they take the time of one, and the card needs neither a second launch nor a barrier over the grid.
#include "fixed_order_sum.cuh"
#include "nf4.cuh"
#include "warp.cuh"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

constexpr int kThreads = kNestedBlocksize;
constexpr int kWarps = kThreads / kWarpSize;
/// About as many as a large card runs at once; each takes nested blocks until none is left.
constexpr int64_t kMaxGrid = 256;
static_assert(kThreads == kSumLanes, "the sum's lanes are the threads");

__global__ void __launch_bounds__(kThreads)
    quantize_scales(const float* absmax, int64_t blocks, uint8_t* codes, float* nested_absmax,
                    float* offset_out) {
    __shared__ float map[kThreads];  // the dynamic map: each thread searches it
    __shared__ double lanes[kSumLanes];
    __shared__ float maxima[kWarps];
    const int thread = static_cast<int>(threadIdx.x);
    map[thread] = kDeviceSignedMap.value[thread];
    const double sum =
        block_sum(blocks, lanes, [absmax](int64_t i) { return static_cast<double>(absmax[i]); });
    const float offset = static_cast<float>(sum / static_cast<double>(blocks));
    if (blockIdx.x == 0 && thread == 0) *offset_out = offset;

    const int64_t nested_blocks = nested_block_count(blocks);
    for (int64_t nested = blockIdx.x; nested < nested_blocks; nested += gridDim.x) {
        const int64_t i = nested * kNestedBlocksize + thread;
        const float difference = i < blocks ? absmax[i] - offset : 0.0f;
        const float warp_largest = warp_max(fabsf(difference));
        if (thread % kWarpSize == 0) maxima[thread / kWarpSize] = warp_largest;
        __syncthreads();
        float largest = 0.0f;
        for (int warp = 0; warp < kWarps; ++warp) largest = largest < maxima[warp] ? maxima[warp] : largest;
        __syncthreads();  // before the next turn writes the maxima
        if (thread == 0) nested_absmax[nested] = largest;
        const float scale = 1.0f / largest;
        if (i < blocks) codes[i] = static_cast<uint8_t>(encode_dynamic(map, difference * scale));
    }
}

}  // namespace

void quantize_absmax(const float* absmax, int64_t blocks, uint8_t* codes, float* nested_absmax, float* offset,
                     Stream stream) {
    if (blocks < 1) throw std::invalid_argument("quantize_absmax: no scales");
    if (!is_aligned(absmax, sizeof(float))) throw std::invalid_argument("quantize_absmax: misaligned scales");
    const int64_t nested_blocks = nested_block_count(blocks);
    const LaunchConfig config{dim3(grid_size(nested_blocks < kMaxGrid ? nested_blocks : kMaxGrid, 1)),
                              dim3(kThreads)};
    launch<quantize_scales>(config, stream, absmax, blocks, codes, nested_absmax, offset);
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
