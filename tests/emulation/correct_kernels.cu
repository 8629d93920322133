// Kernels that keep CUDA's rules, some of them narrowly: the emulated grid may report nothing, and their
// results are the same under every order of threads.
#include <map>
#include <string>

#include "launch.cuh"
#include "sample_kernels.h"

namespace qlora::emulation {

namespace {

using kernels::QLORA_KERNEL_BACKEND::launch;
using kernels::QLORA_KERNEL_BACKEND::LaunchConfig;
using kernels::QLORA_KERNEL_BACKEND::load_vector;
using kernels::QLORA_KERNEL_BACKEND::store_vector;

constexpr int kThreads = 64;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ int element() {
    return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

/// Every value of a block becomes the block's sum.
__global__ void tree_sum(const float* in, float* out, int) {
    __shared__ float sums[kThreads];
    const int i = static_cast<int>(threadIdx.x);
    sums[i] = in[element()];
    __syncthreads();
    for (int stride = kThreads / 2; stride > 0; stride /= 2) {
        if (i < stride) sums[i] += sums[i + stride];
        __syncthreads();
    }
    out[element()] = sums[0];
}

__global__ void warp_sums_in_turns(const float* in, float* out, int) {
    __shared__ float warps[kThreads / 32];
    const int i = static_cast<int>(threadIdx.x);
    float total = 0.0f;
    for (int turn = 0; turn < 4; ++turn) {
        float sum = in[element()] * static_cast<float>(turn + 1);
        for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
        if (i % 32 == 0) warps[i / 32] = sum;
        __syncthreads();
        total = total * 2.0f + warps[0] - warps[1];
        __syncthreads();
    }
    out[element()] = total;
}

/// Each warp in a slice of its own: only __syncwarp orders it.
__global__ void warp_slices(const float* in, float* out, int) {
    __shared__ float slices[kThreads];
    const int i = static_cast<int>(threadIdx.x);
    slices[i] = in[element()];
    __syncwarp();
    const float neighbour = slices[i ^ 1];
    __syncwarp();
    slices[i] = neighbour + 1.0f;
    __syncwarp();
    out[element()] = slices[i ^ 31];
}

/// Half warps that go their own ways and meet again.
__global__ void half_warps(const float* in, float* out, int) {
    __shared__ float slices[kThreads];
    const int i = static_cast<int>(threadIdx.x);
    const unsigned half = i % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
    slices[i] = in[element()];
    __syncwarp(half);
    float value = slices[i ^ 8];
    if (i % 32 < 16) {
        for (int distance = 8; distance > 0; distance /= 2) value += __shfl_xor_sync(half, value, distance);
    }
    __syncwarp(half);
    slices[i] = value;
    __syncwarp();
    out[element()] = slices[i ^ 16];
}

__global__ void sixteen_threads(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    out[element()] = __shfl_sync(0x0000ffffu, in[element()], 15 - i, 16);
}

/// Segments of eight lanes; what would come from another segment is the lane's own value.
__global__ void shuffles(const float* in, float* out, int) {
    const float value = in[element()];
    const float up = __shfl_up_sync(kAllLanes, value, 3, 8);
    const float down = __shfl_down_sync(kAllLanes, value, 3, 8);
    const float from = __shfl_sync(kAllLanes, value, 10, 8);
    const float across = __shfl_xor_sync(kAllLanes, value, 8, 8);
    out[element()] = ((up * 100.0f + down) * 100.0f + from) * 100.0f + across;
}

__global__ void votes(const float* in, float* out, int) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int value = static_cast<int>(in[element()]);
    const unsigned word = static_cast<unsigned>(value);
    int result = __popc(__ballot_sync(kAllLanes, value % 3 == 0));
    result = result * 4 + __any_sync(kAllLanes, value == 40) * 2 + __all_sync(kAllLanes, value >= 0);
    result += __reduce_add_sync(kAllLanes, value) + __reduce_max_sync(kAllLanes, value);
    result += __reduce_min_sync(kAllLanes, value - 100) * 1000;
    result += static_cast<int>(__reduce_xor_sync(kAllLanes, word) + __reduce_or_sync(kAllLanes, word) +
                               __reduce_and_sync(kAllLanes, word + 64u) + __reduce_max_sync(kAllLanes, word));
    out[element()] = static_cast<float>(result + lane);
}

/// Counts of the values' integer parts, in out[0 .. 7]; whole numbers, so their order does not matter.
__global__ void histogram(const float* in, float* out, int count) {
    __shared__ int counts[8];
    if (threadIdx.x < 8) counts[threadIdx.x] = 0;
    __syncthreads();
    if (element() < count) atomicAdd(&counts[static_cast<int>(in[element()]) % 8], 1);
    __syncthreads();
    if (threadIdx.x < 8) atomicAdd(&out[threadIdx.x], static_cast<float>(counts[threadIdx.x]));
}

/// Two threads of different warps and blocks write neighbouring bytes.
__global__ void neighbouring_bytes(const float* in, float* out, int) {
    reinterpret_cast<unsigned char*>(out)[element()] = static_cast<unsigned char>(in[element()]);
}

__global__ void late_return(const float* in, float* out, int count) {
    __shared__ float first;
    if (threadIdx.x == 0) first = in[element()];
    __syncthreads();
    if (element() >= count - 3) return;
    out[element()] = in[element()] - first;
}

/// A block of 8 x 8 transposes a tile; two-dimensional indices.
__global__ void transpose(const float* in, float* out, int) {
    __shared__ float tile[8][8];
    const unsigned base = blockIdx.x * 64;
    tile[threadIdx.y][threadIdx.x] = in[base + threadIdx.y * 8 + threadIdx.x];
    __syncthreads();
    out[base + threadIdx.y * 8 + threadIdx.x] = tile[threadIdx.x][threadIdx.y];
}

__global__ void vectors(const float* in, float* out, int) {
    const float4 four = load_vector<float4>(in + 4 * element());
    store_vector(out + 4 * element(), make_float4(four.w, four.z, four.y, four.x));
}

/// In place: each thread reads and writes its own element, twice.
__global__ void in_place(const float* in, float* out, int) {
    out[element()] = in[element()];
    out[element()] *= 2.0f;
}

template <auto kKernel>
void start(const float* in, float* out, int count) {
    launch<kKernel>(LaunchConfig{dim3(static_cast<unsigned>(count) / kThreads), dim3(kThreads)}, nullptr, in,
                    out, count);
}

template <auto kKernel>
void start_eight_by_eight(const float* in, float* out, int count) {
    launch<kKernel>(LaunchConfig{dim3(static_cast<unsigned>(count) / 64), dim3(8, 8)}, nullptr, in, out,
                    count);
}

void start_sixteen_threads(const float* in, float* out, int count) {
    launch<sixteen_threads>(LaunchConfig{dim3(static_cast<unsigned>(count) / 16), dim3(16)}, nullptr, in, out,
                            count);
}

void start_vectors(const float* in, float* out, int count) {
    launch<vectors>(LaunchConfig{dim3(static_cast<unsigned>(count) / 128), dim3(32)}, nullptr, in, out,
                    count);
}

}  // namespace

Sample correct_kernel(const char* name) {
    static const std::map<std::string, Sample> kernels = {
        {"tree_sum", start<tree_sum>},
        {"warp_sums_in_turns", start<warp_sums_in_turns>},
        {"warp_slices", start<warp_slices>},
        {"half_warps", start<half_warps>},
        {"sixteen_threads", start_sixteen_threads},
        {"shuffles", start<shuffles>},
        {"votes", start<votes>},
        {"histogram", start<histogram>},
        {"neighbouring_bytes", start<neighbouring_bytes>},
        {"late_return", start<late_return>},
        {"transpose", start_eight_by_eight<transpose>},
        {"vectors", start_vectors},
        {"in_place", start<in_place>},
    };
    return kernels.at(name);
}

}  // namespace qlora::emulation
