#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "device_runtime.h"
#include "fiber.h"
#include "grid.h"

/// The block that runs, shared by the scheduler, the warp operations, the diagnosis and the race checker.
namespace qlora::emulation {

inline constexpr int kWarpSize = 32;

enum class ThreadState : uint8_t { kReady, kAtBarrier, kAtWarpOperation, kReturned };

struct WarpRequest {
    WarpOperation operation;
    unsigned mask;
    uint64_t value;
    int operand, width;
};

struct Thread {
    int number = 0;  // linear index in the block; warp = number / 32, lane = number % 32
    Size3 index{};
    ThreadState state = ThreadState::kReturned;
    Site site{};            // where it waits
    WarpRequest request{};  // at a warp operation
    uint64_t result = 0;
    int64_t vector_stores = 0;  // in this block
    Fiber fiber;
};

struct Warp {
    unsigned existing = 0;  // lanes that the block has
    unsigned waiting = 0;   // lanes at a warp operation
    unsigned returned = 0;
};

struct Block {
    std::string kernel;
    LaunchShape shape{};
    Size3 index{};
    std::vector<Thread*> threads;
    std::vector<Warp> warps;
    int at_barrier = 0;
    int returned = 0;
};

/// The block that runs, or the last one that ran.
Block& running_block();

/// The thread whose fiber runs; null outside kernels.
Thread* running_thread();

/// Waits in the fiber of `thread` until the scheduler has set it ready and comes to it again.
void wait(Thread& thread, ThreadState state, Site site);

/// Sets the threads ready, in the order of the schedule.
void release(const std::vector<Thread*>& threads);

/// Ends the launch with a Fault; the kernel, block and thread are added to the message. Called inside a
/// fiber: an exception unwinds the thread.
[[noreturn]] void fail(FaultKind kind, const std::string& message);

/// The same for memory hooks, which the compiler believes never to throw: the thread's frames are forgotten.
[[noreturn]] void fail_without_unwinding(FaultKind kind, const std::string& message);

/// Why no thread of the block can run on.
Fault diagnose_stuck(const Block& block);

/// A fault's message: what, and in which kernel and block.
std::string describe(const Block& block, const std::string& message);
std::string describe(Site site);

/// The kernel in the compiler's signature of launch<kernel>, without its namespaces.
std::string kernel_name(const std::string& signature);

}  // namespace qlora::emulation
