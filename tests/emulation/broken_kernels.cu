// Kernels with one fault each, which the emulated grid has to find: blocks of 64 threads, and the least code
// around the fault.
#include "sample_kernels.h"

#include <map>
#include <string>

#include "launch.cuh"

namespace qlora::emulation {

namespace {

using kernels::QLORA_KERNEL_BACKEND::launch;
using kernels::QLORA_KERNEL_BACKEND::LaunchConfig;
using kernels::QLORA_KERNEL_BACKEND::load_vector;

constexpr int kThreads = 64;
constexpr unsigned kAllLanes = 0xffffffffu;

// --- barriers ---

__global__ void return_before_barrier(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    if (i >= kThreads - 8) return;
    __syncthreads();  // fault: return_before_barrier
    out[i] = in[i];
}

__global__ void two_barriers(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < 32) {
        __syncthreads();  // fault: two_barriers
    } else {
        __syncthreads();  // fault: two_barriers
    }
    out[i] = in[i];
}

__global__ void barrier_against_shuffle(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    float value = in[i];
    if (i % 32 < 16) {
        __syncthreads();  // fault: barrier_against_shuffle
    } else {
        value = __shfl_xor_sync(kAllLanes, value, 1);  // fault: barrier_against_shuffle
    }
    out[i] = value;
}

// --- masks ---

__global__ void full_mask_in_half_a_warp(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    out[i] = __shfl_xor_sync(kAllLanes, in[i], 8);  // fault: full_mask_in_half_a_warp
}

__global__ void caller_not_in_mask(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    out[i] = __shfl_xor_sync(0x0000ffffu, in[i], 1);  // fault: caller_not_in_mask
}

__global__ void shuffle_from_absent_lane(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    if (i % 32 >= 16) return;
    out[i] = __shfl_xor_sync(0x0000ffffu, in[i], 16);  // fault: shuffle_from_absent_lane
}

__global__ void mask_names_returned_lanes(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    if (i % 32 == 31) return;
    out[i] = __shfl_up_sync(kAllLanes, in[i], 1);  // fault: mask_names_returned_lanes
}

__global__ void two_warp_operations(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    if (i % 2 == 0) {
        out[i] = static_cast<float>(__any_sync(kAllLanes, in[i] > 0.0f));  // fault: two_warp_operations
    } else {
        out[i] = static_cast<float>(__all_sync(kAllLanes, in[i] > 0.0f));  // fault: two_warp_operations
    }
}

__global__ void masks_that_differ(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    const unsigned mask = i % 32 == 0 ? 0x7fffffffu : kAllLanes;
    out[i] = __shfl_sync(mask, in[i], 0);  // fault: masks_that_differ
}

// --- races within a block ---

__global__ void missing_barrier_in_tree(const float* in, float* out, int) {
    __shared__ float sums[kThreads];
    const int i = static_cast<int>(threadIdx.x);
    sums[i] = in[i];
    __syncthreads();
    for (int stride = kThreads / 2; stride > 0; stride /= 2) {
        if (i < stride) sums[i] += sums[i + stride];  // fault: missing_barrier_in_tree
    }
    __syncthreads();
    out[i] = sums[0];
}

// The barrier is missing that keeps a fast warp from writing the next turn's sums while another still reads.
__global__ void missing_barrier_before_next_turn(const float* in, float* out, int) {
    __shared__ float warps[kThreads / 32];
    const int i = static_cast<int>(threadIdx.x);
    float total = 0.0f;
    for (int turn = 0; turn < 4; ++turn) {
        float sum = in[i] * static_cast<float>(turn + 1);
        for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
        if (i % 32 == 0) warps[i / 32] = sum;  // fault: missing_barrier_before_next_turn
        __syncthreads();
        total = total * 2.0f + warps[0] - warps[1];
    }
    out[i] = total;
}

__global__ void missing_syncwarp(const float* in, float* out, int) {
    __shared__ float slices[kThreads];
    const int i = static_cast<int>(threadIdx.x);
    slices[i] = 0.0f;
    __syncthreads();
    slices[i] = in[i];
    out[i] = slices[i ^ 1];  // fault: missing_syncwarp
}

// A shuffle makes lanes meet but does not order their memory accesses.
__global__ void shuffle_instead_of_syncwarp(const float* in, float* out, int) {
    __shared__ float slices[kThreads];
    const int i = static_cast<int>(threadIdx.x);
    slices[i] = 0.0f;
    __syncthreads();
    slices[i] = in[i];
    const float own = __shfl_sync(kAllLanes, in[i], i % 32);
    out[i] = slices[i ^ 1] + own;  // fault: shuffle_instead_of_syncwarp
}

__global__ void syncwarp_of_the_wrong_half(const float* in, float* out, int) {
    __shared__ float slices[kThreads];
    const int i = static_cast<int>(threadIdx.x);
    slices[i] = 0.0f;
    __syncthreads();
    slices[i] = in[i];
    __syncwarp(i % 32 < 16 ? 0x0000ffffu : 0xffff0000u);
    out[i] = slices[i ^ 16];  // fault: syncwarp_of_the_wrong_half
}

__global__ void syncwarp_between_warps(const float* in, float* out, int) {
    __shared__ float slices[kThreads];
    const int i = static_cast<int>(threadIdx.x);
    slices[i] = 0.0f;
    __syncthreads();
    slices[i] = in[i];
    __syncwarp();
    out[i] = slices[i ^ 32];  // fault: syncwarp_between_warps
}

__global__ void two_threads_one_address(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    out[i / 2] = in[i];  // fault: two_threads_one_address
}

__global__ void plain_read_beside_atomics(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    atomicAdd(&out[0], in[i]);
    if (i == 63) out[1] = out[0];  // fault: plain_read_beside_atomics
}

// --- races between blocks ---

__global__ void two_blocks_one_sum(const float* in, float* out, int) {
    if (threadIdx.x == 0) out[0] += in[blockIdx.x];  // fault: two_blocks_one_sum
}

__global__ void block_reads_what_another_wrote(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    if (blockIdx.x == 0) {
        out[i] = in[i];
    } else {
        out[i + kThreads] = out[i];  // fault: block_reads_what_another_wrote
    }
}

__global__ void block_overwrites_what_another_read(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    if (blockIdx.x == 0) {
        out[i + kThreads] = out[i] + in[i];
    } else {
        out[i] = in[i];  // fault: block_overwrites_what_another_read
    }
}

// --- shared memory that nobody wrote ---

__global__ void uninitialized_shared(const float* in, float* out, int) {
    __shared__ float tile[kThreads];
    const int i = static_cast<int>(threadIdx.x);
    if (i != 17) tile[i] = in[i];
    __syncthreads();
    out[i] = tile[i];  // fault: uninitialized_shared
}

// What an earlier block left behind is not this block's.
__global__ void shared_of_an_earlier_block(const float* in, float* out, int) {
    __shared__ float tile[kThreads];
    const int i = static_cast<int>(threadIdx.x);
    if (blockIdx.x == 0) tile[i] = in[i];
    __syncthreads();
    out[static_cast<int>(blockIdx.x) * kThreads + i] = tile[i];  // fault: shared_of_an_earlier_block
}

// --- bounds ---

__global__ void static_shared_overrun(const float* in, float* out, int) {
    __shared__ float tile[kThreads];
    const int i = static_cast<int>(threadIdx.x);
    tile[i] = in[i];
    __syncthreads();
    float* const next = tile + 1;
    out[i] = next[i];  // fault: static_shared_overrun
}

__global__ void read_behind_the_input(const float* in, float* out, int count) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < count) out[i] = in[i + 1];  // fault: read_behind_the_input
}

__global__ void read_before_the_input(const float* in, float* out, int count) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < count) out[i] = in[i - 1];  // fault: read_before_the_input
}

__global__ void write_behind_the_output(const float* in, float* out, int count) {
    const int i = static_cast<int>(threadIdx.x);
    if (i <= count) out[i] = in[0];  // fault: write_behind_the_output
}

__global__ void write_to_the_input(const float* in, float* out, int) {
    const int i = static_cast<int>(threadIdx.x);
    out[i] = in[i];
    const_cast<float*>(in)[i] = 0.0f;  // fault: write_to_the_input
}

__global__ void misaligned_vector(const float* in, float* out, int) {
    const float4 four = load_vector<float4>(in + 4 * (threadIdx.x % 8) + 1);  // fault: misaligned_vector
    out[threadIdx.x] = four.x;
}

__global__ void nothing(const float*, float*, int) {}

template <auto kKernel>
void start(const float* in, float* out, int count) {
    launch<kKernel>(LaunchConfig{dim3(1), dim3(kThreads)}, nullptr, in, out, count);
}

template <auto kKernel>
void start_two_blocks(const float* in, float* out, int count) {
    launch<kKernel>(LaunchConfig{dim3(2), dim3(kThreads)}, nullptr, in, out, count);
}

template <auto kKernel>
void start_half_a_warp(const float* in, float* out, int count) {
    launch<kKernel>(LaunchConfig{dim3(1), dim3(16)}, nullptr, in, out, count);
}

void too_many_threads(const float* in, float* out, int count) {
    launch<nothing>(LaunchConfig{dim3(1), dim3(1025)}, nullptr, in, out, count);
}

void too_many_rows_of_blocks(const float* in, float* out, int count) {
    launch<nothing>(LaunchConfig{dim3(1, 65536), dim3(1)}, nullptr, in, out, count);
}

}  // namespace

Sample broken_kernel(const char* name) {
#define QLORA_SAMPLE(how, kernel) \
    { #kernel, how < kernel> }
    static const std::map<std::string, Sample> kernels = {
        QLORA_SAMPLE(start, return_before_barrier),
        QLORA_SAMPLE(start, two_barriers),
        QLORA_SAMPLE(start, barrier_against_shuffle),
        QLORA_SAMPLE(start_half_a_warp, full_mask_in_half_a_warp),
        QLORA_SAMPLE(start, caller_not_in_mask),
        QLORA_SAMPLE(start, shuffle_from_absent_lane),
        QLORA_SAMPLE(start, mask_names_returned_lanes),
        QLORA_SAMPLE(start, two_warp_operations),
        QLORA_SAMPLE(start, masks_that_differ),
        QLORA_SAMPLE(start, missing_barrier_in_tree),
        QLORA_SAMPLE(start, missing_barrier_before_next_turn),
        QLORA_SAMPLE(start, missing_syncwarp),
        QLORA_SAMPLE(start, shuffle_instead_of_syncwarp),
        QLORA_SAMPLE(start, syncwarp_of_the_wrong_half),
        QLORA_SAMPLE(start, syncwarp_between_warps),
        QLORA_SAMPLE(start, two_threads_one_address),
        QLORA_SAMPLE(start, plain_read_beside_atomics),
        QLORA_SAMPLE(start_two_blocks, two_blocks_one_sum),
        QLORA_SAMPLE(start_two_blocks, block_reads_what_another_wrote),
        QLORA_SAMPLE(start_two_blocks, block_overwrites_what_another_read),
        QLORA_SAMPLE(start, uninitialized_shared),
        QLORA_SAMPLE(start_two_blocks, shared_of_an_earlier_block),
        QLORA_SAMPLE(start, static_shared_overrun),
        QLORA_SAMPLE(start, read_behind_the_input),
        QLORA_SAMPLE(start, read_before_the_input),
        QLORA_SAMPLE(start, write_behind_the_output),
        QLORA_SAMPLE(start, write_to_the_input),
        QLORA_SAMPLE(start, misaligned_vector),
        {"too_many_threads", too_many_threads},
        {"too_many_rows_of_blocks", too_many_rows_of_blocks},
    };
#undef QLORA_SAMPLE
    return kernels.at(name);
}

}  // namespace qlora::emulation
