#pragma once

#include <cstddef>
#include <cstdint>

/// What CUDA's names in cuda_runtime.h are made of. Each function is called by a kernel's thread, inside its
/// fiber, and may end the whole launch with a Fault.
namespace qlora::emulation {

struct Site {
    const char* file;
    int line;
};

struct Size3 {
    unsigned x, y, z;
};

struct LaunchShape {
    Size3 grid, block;
};

/// Runs body(arguments) in every thread of the grid. Called by launch() on the program's own stack;
/// `arguments` is the one place there that kernels may read. `signature` is launch's own, as the compiler
/// names it.
void run_grid(const char* signature, const LaunchShape& shape, void (*body)(void*), void* arguments,
              std::size_t argument_bytes);

/// __syncthreads().
void block_barrier(Site site);

enum class WarpOperation : uint8_t {
    kSync,
    kShuffle,
    kShuffleUp,
    kShuffleDown,
    kShuffleXor,
    kBallot,
    kAny,
    kAll,
    kReduceAdd,
    kReduceMin,
    kReduceMax,
    kReduceAnd,
    kReduceOr,
    kReduceXor,
};

/// Waits for every lane of the mask; `value` is this lane's, the result is what the operation gives this
/// lane. `operand` is a shuffle's lane, distance or lane mask, or 1 where a reduction's values are signed.
uint64_t warp_operation(WarpOperation operation, unsigned mask, uint64_t value, int operand, int width,
                        Site site);

/// Counts a vector access and checks its address.
void vector_access(const void* address, std::size_t bytes, Site site);

/// The same for one that stores, of which the touched sectors are noted where a test asks (StoreSectors).
void vector_store(const void* address, std::size_t bytes, Site site);

void check_alignment(const void* address, std::size_t alignment, Site site);

/// Tells the race checker of an atomic access that is about to happen.
void atomic_access(void* address, std::size_t bytes, Site site);

}  // namespace qlora::emulation
