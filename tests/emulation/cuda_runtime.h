#pragma once

// CUDA's names for kernel files that the CPU compiler compiles: comes before the toolkit's header of the same
// name on the include path of the emulated tests. Only the dialect described in launch.cuh exists here.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "device_runtime.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
// Blocks run one after another on one thread of the system, so one copy per function is one copy per block.
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}
inline float2 make_float2(float x, float y) {
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}

enum cudaError_t {
    cudaSuccess,
    cudaErrorInvalidConfiguration,
    cudaErrorIllegalAddress,
    cudaErrorMisalignedAddress,
    cudaErrorInvalidAddressSpace,
    cudaErrorIllegalInstruction,
    cudaErrorInvalidPc,
    cudaErrorHardwareStackError,
    cudaErrorLaunchFailure,
    cudaErrorLaunchTimeout,
    cudaErrorAssert,
    cudaErrorECCUncorrectable,
};
using cudaStream_t = struct CUstream_st*;

namespace qlora::emulation {

/// What the calls below answer; set by tests, since the grid throws where a kernel is wrong.
struct RuntimeErrors {
    cudaError_t last = cudaSuccess;             ///< since it was last asked for
    cudaError_t of_running_work = cudaSuccess;  ///< that a wait brings to light
};
inline RuntimeErrors runtime_errors;

}  // namespace qlora::emulation

inline cudaError_t cudaPeekAtLastError() {
    return qlora::emulation::runtime_errors.last;
}
inline cudaError_t cudaGetLastError() {
    const cudaError_t error = qlora::emulation::runtime_errors.last;
    qlora::emulation::runtime_errors.last = cudaSuccess;
    return error;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
    return qlora::emulation::runtime_errors.of_running_work;
}
inline const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorInvalidConfiguration ? "invalid configuration argument"
           : error == cudaErrorIllegalAddress     ? "an illegal memory access was encountered"
                                                  : "another error";
}

/// Set by the scheduler each time a thread runs on.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

/// File and line of a call, as default arguments that the caller never writes.
#define QLORA_CALL_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(QLORA_CALL_SITE) {
    qlora::emulation::block_barrier({file, line});
}
inline void __syncwarp(unsigned mask = 0xffffffffu, QLORA_CALL_SITE) {
    qlora::emulation::warp_operation(qlora::emulation::WarpOperation::kSync, mask, 0, 0, 32, {file, line});
}

/// Which lanes happen to run together is nothing a correct kernel may ask.
unsigned __activemask() = delete;

namespace qlora::emulation {

/// One warp operation on a value of 4 or 8 bytes.
template <class T>
T exchange(WarpOperation operation, unsigned mask, T value, int operand, int width, Site site) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = warp_operation(operation, mask, bits, operand, width, site);
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}

}  // namespace qlora::emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, QLORA_CALL_SITE) {
    return qlora::emulation::exchange(qlora::emulation::WarpOperation::kShuffle, mask, value, lane, width,
                                      {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, QLORA_CALL_SITE) {
    return qlora::emulation::exchange(qlora::emulation::WarpOperation::kShuffleUp, mask, value,
                                      static_cast<int>(distance), width, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, QLORA_CALL_SITE) {
    return qlora::emulation::exchange(qlora::emulation::WarpOperation::kShuffleDown, mask, value,
                                      static_cast<int>(distance), width, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, QLORA_CALL_SITE) {
    return qlora::emulation::exchange(qlora::emulation::WarpOperation::kShuffleXor, mask, value, lane_mask,
                                      width, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, QLORA_CALL_SITE) {
    return static_cast<unsigned>(qlora::emulation::warp_operation(
        qlora::emulation::WarpOperation::kBallot, mask, predicate != 0 ? 1 : 0, 0, 32, {file, line}));
}
inline int __any_sync(unsigned mask, int predicate, QLORA_CALL_SITE) {
    return static_cast<int>(qlora::emulation::warp_operation(qlora::emulation::WarpOperation::kAny, mask,
                                                             predicate != 0 ? 1 : 0, 0, 32, {file, line}));
}
inline int __all_sync(unsigned mask, int predicate, QLORA_CALL_SITE) {
    return static_cast<int>(qlora::emulation::warp_operation(qlora::emulation::WarpOperation::kAll, mask,
                                                             predicate != 0 ? 1 : 0, 0, 32, {file, line}));
}

#define QLORA_WARP_REDUCTION(name, operation, type, is_signed)                                     \
    inline type name(unsigned mask, type value, QLORA_CALL_SITE) {                                 \
        return qlora::emulation::exchange(qlora::emulation::WarpOperation::operation, mask, value, \
                                          is_signed, 32, {file, line});                            \
    }
QLORA_WARP_REDUCTION(__reduce_add_sync, kReduceAdd, unsigned, 0)
QLORA_WARP_REDUCTION(__reduce_min_sync, kReduceMin, unsigned, 0)
QLORA_WARP_REDUCTION(__reduce_max_sync, kReduceMax, unsigned, 0)
QLORA_WARP_REDUCTION(__reduce_add_sync, kReduceAdd, int, 1)
QLORA_WARP_REDUCTION(__reduce_min_sync, kReduceMin, int, 1)
QLORA_WARP_REDUCTION(__reduce_max_sync, kReduceMax, int, 1)
QLORA_WARP_REDUCTION(__reduce_and_sync, kReduceAnd, unsigned, 0)
QLORA_WARP_REDUCTION(__reduce_or_sync, kReduceOr, unsigned, 0)
QLORA_WARP_REDUCTION(__reduce_xor_sync, kReduceXor, unsigned, 0)
#undef QLORA_WARP_REDUCTION

namespace qlora::emulation {

/// `change(old)` is stored; returns old. Not instrumented: the race checker hears of it as an atomic access.
template <class T, class Change>
[[gnu::noinline, gnu::no_sanitize_thread]] T atomic_change(T* address, Change change, Site site) {
    check_alignment(address, sizeof(T), site);
    atomic_access(address, sizeof(T), site);
    const T old = *address;
    *address = change(old);
    return old;
}

}  // namespace qlora::emulation

template <class T>
T atomicAdd(T* address, T value, QLORA_CALL_SITE) {
    return qlora::emulation::atomic_change(address, [value](T old) { return old + value; }, {file, line});
}
template <class T>
T atomicMin(T* address, T value, QLORA_CALL_SITE) {
    return qlora::emulation::atomic_change(address, [value](T old) { return value < old ? value : old; },
                                           {file, line});
}
template <class T>
T atomicMax(T* address, T value, QLORA_CALL_SITE) {
    return qlora::emulation::atomic_change(address, [value](T old) { return old < value ? value : old; },
                                           {file, line});
}
template <class T>
T atomicExch(T* address, T value, QLORA_CALL_SITE) {
    return qlora::emulation::atomic_change(address, [value](T) { return value; }, {file, line});
}
template <class T>
T atomicCAS(T* address, T compare, T value, QLORA_CALL_SITE) {
    return qlora::emulation::atomic_change(
        address, [compare, value](T old) { return old == compare ? value : old; }, {file, line});
}

template <class T>
T __ldg(const T* address) {
    return *address;
}
inline int __popc(unsigned value) {
    return __builtin_popcount(value);
}
#undef QLORA_CALL_SITE
