#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "launch_faults.cuh"
#include "qlora/kernels/cuda_kernels.h"

/// How kernels start and reach vectors of memory, for nvcc and for the tests' CPU compiler. The dialect of
/// this folder, so that every kernel can be proven without a GPU: plain __shared__ arrays; __syncthreads,
/// __syncwarp, shuffles, votes, __reduce_*_sync, atomics, __ldg. No thread returns before a barrier that
/// others reach. No shared memory of a size known only at launch, no cooperative groups, __activemask,
/// textures, inline PTX, approximate math (__expf and its like), nor waiting for another block. A sum has a
/// fixed order; fmaf where fusion is wanted.
namespace qlora::kernels::QLORA_KERNEL_BACKEND {

struct LaunchConfig {
    dim3 grid, block;
};

/// Blocks of `per_block` items that `items` need; throws std::invalid_argument where a grid cannot have as
/// many.
inline unsigned grid_size(int64_t items, int64_t per_block) {
    const int64_t blocks = items / per_block + (items % per_block != 0 ? 1 : 0);
    if (blocks > 0x7fffffff) throw std::invalid_argument("a tensor too large for one launch");
    return static_cast<unsigned>(blocks);
}

inline bool is_aligned(const void* address, std::size_t alignment) {
    return reinterpret_cast<uintptr_t>(address) % alignment == 0;
}

#if defined(__CUDACC__)

/// launch<kernel>(config, stream, arguments...)
template <auto kKernel, class... Arguments>
void launch(const LaunchConfig& config, Stream stream, Arguments... arguments) {
    require_no_earlier_fault(__PRETTY_FUNCTION__);
    kKernel<<<config.grid, config.block, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
    require_launched(__PRETTY_FUNCTION__, stream);
}

/// The address is a multiple of the vector's size.
template <class Vector>
__device__ Vector load_vector(const void* address) {
    return *static_cast<const Vector*>(address);
}
template <class Vector>
__device__ void store_vector(void* address, Vector value) {
    *static_cast<Vector*>(address) = value;
}

#else

template <auto kKernel, class... Arguments>
void launch(const LaunchConfig& config, Stream stream, Arguments... arguments) {
    require_no_earlier_fault(__PRETTY_FUNCTION__);
    std::tuple<Arguments...> packed(arguments...);
    const auto run = [](void* place) { std::apply(kKernel, *static_cast<std::tuple<Arguments...>*>(place)); };
    const emulation::LaunchShape shape{{config.grid.x, config.grid.y, config.grid.z},
                                       {config.block.x, config.block.y, config.block.z}};
    emulation::run_grid(__PRETTY_FUNCTION__, shape, run, &packed, sizeof packed);
    require_launched(__PRETTY_FUNCTION__, stream);
}

template <class Vector>
Vector load_vector(const void* address, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    emulation::vector_access(address, sizeof(Vector), {file, line});
    return *static_cast<const Vector*>(address);
}
template <class Vector>
void store_vector(void* address, Vector value, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
    emulation::vector_store(address, sizeof(Vector), {file, line});
    *static_cast<Vector*>(address) = value;
}

#endif

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
